#!/bin/sh
# @anthropic-ai/claude-code 2.1.197 (npm, run 2026-11), one `claude -p` against a server that refuses with
# `x-should-retry: false`, which the anthropic SDKs of Python and TypeScript obey. Whether it obeys
# depends on the *type* in the error's body, not on the status:
#
# - 503 with the type `api_error`: one request, and the server's message is shown;
# - 503, or even 400, with the type `overloaded_error`: it asks again and again (six requests in the
#   first 25 seconds here), and shows nothing meanwhile.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
npm install --silent --no-fund --no-audit --prefix "$folder" @anthropic-ai/claude-code@2.1.197
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
refusal = (503, "api_error")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        asked.append(self.path)
        status, kind = refusal
        data = json.dumps({"type": "error", "error": {"type": kind, "message": REASON}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("x-should-retry", "false")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
expected = {
    (503, "api_error"): (True, True),
    (503, "overloaded_error"): (False, False),
    (400, "overloaded_error"): (False, False),
}
seen = {}
for refusal in expected:
    asked.clear()
    home = tempfile.mkdtemp(dir=os.getcwd())
    env = {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        "ANTHROPIC_API_KEY": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    with subprocess.Popen(
        [sys.argv[1], "-p", "--model", "m", "hi"], env=env, cwd=home, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as client:
        try:
            shown, _ = client.communicate(timeout=25)
        except subprocess.TimeoutExpired:
            client.kill()
            shown, _ = client.communicate()
    seen[refusal] = (len(asked) == 1, REASON in shown)
    print(f"{refusal[0]} {refusal[1]}: asked {len(asked)} times in 25 s at most, "
          f"message {'shown' if REASON in shown else 'not shown'}")
if seen != expected:
    raise SystemExit("changed")
PYTHON
cd "$folder"
timeout 150 python3 finding.py "$folder/node_modules/.bin/claude"
