#!/bin/sh
# anthropic 2.14.0 (Python SDK, `client.messages.stream`, run 2026-11): what a server or gateway of the
# Messages API has to get right for it, beyond the documented event order:
#
# - content blocks must be numbered from 0 without a gap: a first block with index 1 (because, say, a
#   thinking block 0 was filtered out on the way) is an IndexError in the SDK;
# - `message_delta` must carry `usage`: without it, or with null, AttributeError;
# - an error frame without its `event:` line is dropped, and what came before it is handed out as the
#   final message, with stop_reason None and no exception; so is a stream that just ends.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0
cat > "$folder/finding.py" <<'PYTHON'
import http.server, json, threading


def serve(bodies):
    """Answer each POST with the body that its first path segment names; return the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = bodies[self.path.split("/")[1]].encode()
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(body)))
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def compare(expected, seen):
    """Print what was seen, and end with 1 when it is not what was seen when this was written."""
    for name, result in seen.items():
        print(f"{name}: {result!r}")
    changed = {name for name in expected if expected[name] != seen.get(name)}
    if changed:
        raise SystemExit(f"changed: {sorted(changed)}")
import anthropic


def frames(*events, named=True):
    return "".join(
        (f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n"
        for event in events
    )


start = {
    "type": "message_start",
    "message": {
        "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}


def block(index=0):
    return (
        {"type": "content_block_start", "index": index,
         "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": index,
         "delta": {"type": "text_delta", "text": "Hello."}},
        {"type": "content_block_stop", "index": index},
    )


delta = {
    "type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 2},
}
stop = {"type": "message_stop"}
error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
without_usage = {key: value for key, value in delta.items() if key != "usage"}
bodies = {
    "plain": frames(start, *block(), delta, stop),
    "first_block_is_1": frames(start, *block(1), delta, stop),
    "no_usage": frames(start, *block(), without_usage, stop),
    "error": frames(start, *block(), error),
    "error_without_event_line": frames(start, *block()) + frames(error, named=False),
    "cut": frames(start, *block()[:2]),
}
port = serve(bodies)
seen = {}
for name in bodies:
    client = anthropic.Anthropic(
        api_key="none", base_url=f"http://127.0.0.1:{port}/{name}", timeout=10, max_retries=0
    )
    try:
        with client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as stream:
            message = stream.get_final_message()
        seen[name] = (message.content[0].text, message.stop_reason)
    except Exception as exc:
        seen[name] = type(exc).__name__
compare(
    {
        "plain": ("Hello.", "end_turn"),
        "first_block_is_1": "IndexError",
        "no_usage": "AttributeError",
        "error": "APIStatusError",
        "error_without_event_line": ("Hello.", None),
        "cut": ("Hello.", None),
    },
    seen,
)
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py
