#!/bin/sh
# @openai/codex 0.171.0 (npm, run 2026-11), one `codex exec` against a server of the Responses wire. How
# often it asks depends on what comes behind the event that ends the response, and on a code that
# OpenAI's reference calls a mere description:
#
# - `response.completed` counts at once, also when the body then breaks off; `response.failed` counts
#   only once the body has ended properly: when it breaks behind that event, the same request comes
#   five times more, and the server's message is lost;
# - of a failed response, the codes `invalid_prompt`, `server_is_overloaded`, `insufficient_quota` and
#   `context_length_exceeded` end the turn; every other, `server_error` of the reference's own list
#   included, makes five requests more;
# - of those four only `invalid_prompt` shows the server's message; the others show sentences of
#   Codex's own.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
npm install --silent --no-fund --no-audit --prefix "$folder" @openai/codex@0.171.0
cat > "$folder/finding.py" <<'PYTHON'
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading

REASON = "Nobody here can answer that."
asked = []
ending = ("", True)


def event(kind, number, response):
    value = {"type": kind, "sequence_number": number, "response": response}
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n"


def response(status, **more):
    base = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": []}
    return base | {"status": status} | more


def body(code):
    """Return a stream that completes an answer, or fails with a code."""
    text = event("response.created", 0, response("in_progress"))
    if code:
        failed = response("failed", error={"code": code, "message": REASON})
        return text + event("response.failed", 1, failed)
    part = {"type": "output_text", "text": "Hello.", "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    done = {"type": "response.output_item.done", "sequence_number": 1, "output_index": 0}
    done["item"] = item | {"content": [part]}
    text += f"event: {done['type']}\ndata: {json.dumps(done)}\n\n"
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    return text + event("response.completed", 2, response("completed", usage=usage))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        asked.append(self.path)
        code, whole = ending
        data = body(code).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if whole else b""))
        self.close_connection = True


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"
provider = f'model_providers.here={{name="here",base_url="{url}",wire_api="responses"}}'
command = [sys.argv[1], "exec", "--skip-git-repo-check", "--json", "-m", "m"]
command += ["-c", 'model_provider="here"', "-c", provider, "hi"]
expected = {
    ("", True): (1, 0, False),
    ("", False): (1, 0, False),
    ("invalid_prompt", True): (1, 1, True),
    ("invalid_prompt", False): (6, 1, False),
    ("server_is_overloaded", True): (1, 1, False),
    ("insufficient_quota", True): (1, 1, False),
    ("context_length_exceeded", True): (1, 1, False),
    ("server_error", True): (6, 1, True),
}
seen = {}
for ending in expected:
    asked.clear()
    home = tempfile.mkdtemp(dir=".")
    run = subprocess.run(
        command, cwd=home, env=os.environ | {"CODEX_HOME": os.path.abspath(home)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90,
    )
    seen[ending] = (len(asked), run.returncode, REASON in run.stdout)
    how = "body ends" if ending[1] else "body breaks"
    print(f"{ending[0] or 'completed'}, {how}: asked {len(asked)} times, exit {run.returncode}, "
          f"message {'shown' if REASON in run.stdout else 'not shown'}")
if seen != expected:
    raise SystemExit("changed")
PYTHON
cd "$folder"
timeout 300 python3 finding.py "$folder/node_modules/.bin/codex"
