#!/bin/sh
# @openai/codex 0.171.0 (npm, run 2026-11), one `codex exec` against a server of the Responses wire: an
# answer is what came in `response.output_item.done`, and nothing else. A stream whose words came in
# `response.output_text.delta` and `response.output_text.done`, and whole once more in the `output` of
# `response.completed`, ends as a success, exit code 0, without a word. OpenAI's reference has the
# finished response in `response.completed`; openai 3.57.0 reads it there, and a server that lacks one
# kind of event so answers the SDK well and Codex with silence.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
npm install --silent --no-fund --no-audit --prefix "$folder" @openai/codex@0.171.0
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
cat > "$folder/finding.py" <<'PYTHON'
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading

import openai

HEAD = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m"}
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
with_item = True


def stream(text, with_item):
    """Return a whole answer's events, with or without the one that holds its message."""
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant"}
    done = item | {"status": "completed", "content": [part]}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    opened = HEAD | {"status": "in_progress", "output": []}
    closed = HEAD | {"status": "completed", "output": [done], "usage": USAGE}
    added = item | {"status": "in_progress", "content": []}
    empty = part | {"text": ""}
    events = [
        ("response.created", {"response": opened}),
        ("response.output_item.added", {"output_index": 0, "item": added}),
        ("response.content_part.added", place | {"part": empty}),
        ("response.output_text.delta", place | {"delta": text}),
        ("response.output_text.done", place | {"text": text}),
        ("response.content_part.done", place | {"part": part}),
        ("response.output_item.done", {"output_index": 0, "item": done}),
        ("response.completed", {"response": closed}),
    ]
    if not with_item:
        del events[6]
    for number, (kind, fields) in enumerate(events):
        value = {"type": kind, "sequence_number": number} | fields
        yield f"event: {kind}\ndata: {json.dumps(value)}\n\n"


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
        data = "".join(stream("Hello.", with_item)).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"
provider = f'model_providers.here={{name="here",base_url="{url}",wire_api="responses"}}'
command = [sys.argv[1], "exec", "--skip-git-repo-check", "--json", "-m", "m"]
command += ["-c", 'model_provider="here"', "-c", provider, "hi"]
seen = []
for with_item in (True, False):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    with client.responses.stream(model="m", input="hi") as answer:
        text = answer.get_final_response().output_text
    home = tempfile.mkdtemp(dir=".")
    run = subprocess.run(
        command, cwd=home, env=os.environ | {"CODEX_HOME": os.path.abspath(home)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90,
    )
    seen.append((text, run.returncode, "Hello." in run.stdout))
    print(f"{'with' if with_item else 'without'} output_item.done: openai reads {text!r}, Codex ends "
          f"with {run.returncode} and {'says' if 'Hello.' in run.stdout else 'does not say'} it")
if seen != [("Hello.", 0, True), ("Hello.", 0, False)]:
    raise SystemExit("changed")
PYTHON
cd "$folder"
timeout 200 venv/bin/python -W ignore finding.py "$folder/node_modules/.bin/codex"
