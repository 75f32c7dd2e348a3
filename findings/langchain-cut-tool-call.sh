#!/bin/sh
# langchain 1.5.2 with langchain-openai 1.7.4 and langchain-anthropic 1.7.10 (langchain-core 1.8.3, run
# 2026-11): a tool call that was cut off at the token limit is run, with what had come of its arguments.
# The JSON of a streamed call is read leniently to its end, the last piece included, so that
# `{"folder": "/home/me/pro` becomes the folder /home/me/pro, and an argument that had not come takes
# its default. `finish_reason: length` (`max_tokens`) stands beside the call and stops nothing. The same
# call in a response that is not streamed goes into `invalid_tool_calls`, and nothing runs.
# (Upstream: langchain #39275, langchainjs #11469.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check langchain==1.5.2 \
    langchain-core==1.8.3 langchain-openai==1.7.4 langchain-anthropic==1.7.10 \
    langgraph==1.2.24 langgraph-prebuilt==1.1.3 openai==3.57.0 anthropic==2.14.0
cat > "$folder/finding.py" <<'PYTHON'
import http.server
import json
import threading

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI

IN_A_TEXT = '{"folder": "/home/me/pro'
BEFORE_THE_END = '{"folder": "/home/me/project", "dry_run": tr'
arguments = ""


def openai_stream():
    function = {"name": "remove", "arguments": arguments}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    for delta, reason in (({"role": "assistant", "tool_calls": [call]}, None), ({}, "length")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        yield f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


def openai_whole():
    function = {"name": "remove", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    yield json.dumps(whole | {"choices": [choice]})


def anthropic_stream():
    usage = {"input_tokens": 9, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    for kind, fields in (
        ("message_start", {"message": message | {"stop_reason": None, "usage": usage}}),
        (
            "content_block_start",
            {"index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "remove", "input": {}}},
        ),
        (
            "content_block_delta",
            {"index": 0, "delta": {"type": "input_json_delta", "partial_json": arguments}},
        ),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "max_tokens"}, "usage": usage}),
        ("message_stop", {}),
    ):
        yield f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if any("remove it" not in str(message["content"]) for message in body["messages"]):
            return self.send_error(400, "one question is enough")
        streams = body.get("stream")
        kind = "text/event-stream" if streams else "application/json"
        if self.path.endswith("/messages"):
            pieces = anthropic_stream()
        else:
            pieces = openai_stream() if streams else openai_whole()
        data = "".join(pieces).encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
ran = []


def remove(folder: str, dry_run: bool = False) -> str:
    """Remove a folder."""
    ran.append((folder, dry_run))
    return "removed"


seen = {}
for name, make, where, more in (
    ("openai, whole", ChatOpenAI, "/v1", {}),
    ("openai, streamed", ChatOpenAI, "/v1", {"streaming": True}),
    ("anthropic, streamed", ChatAnthropic, "", {"streaming": True}),
):
    for arguments in (IN_A_TEXT, BEFORE_THE_END):
        ran.clear()
        model = make(model="m", base_url=url + where, api_key="none", max_retries=0, **more)
        try:
            create_agent(model, [remove]).invoke({"messages": [("user", "remove it")]})
        except Exception:
            pass  # the server's refusal of a second request, once the tool has run
        seen[name, arguments] = list(ran)
        print(f"{name}, {arguments}: ran {ran}")
cut, default = [("/home/me/pro", False)], [("/home/me/project", False)]
if list(seen.values()) != [[], [], cut, default, cut, default]:
    raise SystemExit("changed")
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py
