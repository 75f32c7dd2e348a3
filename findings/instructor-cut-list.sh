#!/bin/sh
# instructor 1.17.0 with openai 3.3.0 (run 2026-11): `create_iterable`, its way to draw many records out of a
# text, hands out the records that had come and ends well when the answer was cut at the token limit, was
# stopped by a content filter, or broke off without an end: a shorter list, no error, and its last, half
# record is nowhere. `create`, for one record or a list in one, raises IncompleteOutputException for
# `finish_reason: length`. The more a document holds, the likelier that its end is missing from the list.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check instructor==1.17.0 openai==3.3.0
cat > "$folder/finding.py" <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import instructor
import openai
from pydantic import BaseModel

HALF = '{"tasks": [{"name": "Ann", "age": 31}, {"name": "Bob", "age": 42}, {"name": "Ca'
MESSAGES = [{"role": "user", "content": "Who is in the text?"}]
asked = {"reason": None}


class Person(BaseModel):
    name: str
    age: int


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        function = {"name": "Person", "arguments": HALF}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        said = {"role": "assistant", "content": None, "tool_calls": [call]} if "tools" in body else {"content": HALF}
        head = {"id": "c", "created": 1, "model": "m"}
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if body.get("stream") else "application/json")
        self.end_headers()
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant"} | said, "finish_reason": asked["reason"]}
            self.wfile.write(json.dumps(head | {"object": "chat.completion", "choices": [choice]}).encode())
            return
        for delta, reason in ((said, None), ({}, asked["reason"])):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            chunk = head | {"object": "chat.completion.chunk", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
raw = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
changed = False
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON):
    client = instructor.from_openai(raw, mode=mode)
    for asked["reason"] in ("length", "content_filter", None):
        people = list(
            client.chat.completions.create_iterable(
                model="m", messages=MESSAGES, response_model=Person, max_retries=0
            )
        )
        names = [person.name for person in people]
        print(f"{mode.name}, finish_reason {asked['reason']}: create_iterable gives {names}")
        changed |= names != ["Ann", "Bob"]
    asked["reason"] = "length"
    try:
        client.chat.completions.create(
            model="m", messages=MESSAGES, response_model=Person, max_retries=0
        )
        raised = "nothing"
    except Exception as error:
        raised = type(error).__name__
    print(f"{mode.name}, finish_reason length: create raises {raised}")
    changed |= raised != "IncompleteOutputException"
print("changed" if changed else "as written")
raise SystemExit(changed)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/finding.py" 2> "$folder/log" || { tail -n 3 "$folder/log"; exit 1; }
