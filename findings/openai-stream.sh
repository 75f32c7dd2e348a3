#!/bin/sh
# openai 3.57.0 (Python SDK, run 2026-11): words of a chat stream are lost and no error is raised when
#
# - the stream begins with a byte order mark, which the standard (WHATWG HTML 9.2.6) tells readers to
#   skip: the whole first event is dropped;
# - the last event lacks its blank line (many small servers close right after it): it is dropped, its
#   words and its finish reason with it (the standard says so, too; anthropic 2.14.0 reads it);
# - the server answers the stream request with one whole JSON body: an empty iteration.
#
# An `event: error` whose data is a flat {"message": …} is handed out as a chunk with `choices=None`,
# and the iteration ends well; only a key `error` makes the SDK raise.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
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
import openai


def chunk(text=None, reason=None):
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}
    return f"data: {json.dumps({'id': 'c', 'object': 'chat.completion.chunk', 'created': 1, 'model': 'm', 'choices': [choice]})}\n\n"


hello, world, end = chunk("Hello "), chunk("world.", "stop"), "data: [DONE]\n\n"
message = {"role": "assistant", "content": "Hello world."}
bodies = {
    "plain": hello + world + end,
    "byte_order_mark": "\ufeff" + hello + world + end,
    "no_last_blank_line": hello + world.rstrip("\n"),
    "json_body": json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m",
         "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    ),
    "flat_error": hello + 'event: error\ndata: {"message": "out of memory"}\n\n',
    "error_key": hello + 'data: {"error": {"message": "out of memory"}}\n\n',
}
port = serve(bodies)
seen = {}
for name in bodies:
    client = openai.OpenAI(
        api_key="none", base_url=f"http://127.0.0.1:{port}/{name}", timeout=10, max_retries=0
    )
    text, how = "", "ended"
    try:
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        for part in stream:
            text += part.choices[0].delta.content or "" if part.choices else "<no choices>"
    except Exception as exc:
        how = type(exc).__name__
    seen[name] = (text, how)
compare(
    {
        "plain": ("Hello world.", "ended"),
        "byte_order_mark": ("world.", "ended"),
        "no_last_blank_line": ("Hello ", "ended"),
        "json_body": ("", "ended"),
        "flat_error": ("Hello <no choices>", "ended"),
        "error_key": ("Hello ", "APIError"),
    },
    seen,
)
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py
