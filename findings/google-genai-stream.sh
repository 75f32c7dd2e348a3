#!/bin/sh
# google-genai 3.6.1 (Python SDK, run 2026-11): its reader of `alt=sse` streams is no reader of event
# streams. Everything below is valid by WHATWG HTML 9.2.6 ("Interpreting an event stream"):
#
# - a comment line (the usual keep-alive of proxies) raises UnknownApiResponseError,
# - so does an `event:` line, and `data:` that is not followed by a blank, and a closing `[DONE]`;
# - a body that ends after half the text, without any finishReason, is a normal end of the iteration.
#
# Whoever puts a proxy or gateway in front of the SDK cannot keep the connection alive by comments, and
# whoever uses the SDK has to look at finishReason to tell half an answer from a whole one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check google-genai==3.6.1
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
from google import genai
from google.genai import types


def chunk(text, reason=None):
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}}
    if reason:
        candidate["finishReason"] = reason
    return json.dumps({"candidates": [candidate]})


whole = f'data: {chunk("Hello.", "STOP")}\n\n'
bodies = {
    "plain": whole,
    "comment": f": keep-alive\n\n{whole}",
    "event_line": f"event: message\n{whole}",
    "no_blank": whole.replace("data: ", "data:"),
    "done": f"{whole}data: [DONE]\n\n",
    "cut": f'data: {chunk("Hel")}\n\n',
}
port = serve(bodies)
seen = {}
for name in bodies:
    options = types.HttpOptions(base_url=f"http://127.0.0.1:{port}/{name}", timeout=10_000)
    client = genai.Client(api_key="none", http_options=options)
    text, end = "", "ended"
    try:
        for part in client.models.generate_content_stream(model="m", contents="hi"):
            text += part.text or ""
    except Exception as exc:
        end = type(exc).__name__
    seen[name] = (text, end)
compare(
    {
        "plain": ("Hello.", "ended"),
        "comment": ("", "UnknownApiResponseError"),
        "event_line": ("", "UnknownApiResponseError"),
        "no_blank": ("", "UnknownApiResponseError"),
        "done": ("Hello.", "UnknownApiResponseError"),
        "cut": ("Hel", "ended"),
    },
    seen,
)
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py
