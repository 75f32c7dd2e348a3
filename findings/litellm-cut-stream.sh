#!/bin/sh
# litellm 1.108.7 (the library that is LiteLLM's proxy as well; run 2026-11): a stream whose server closed
# in the middle is a whole answer. Where the last chunk has no finish reason, LiteLLM adds one, `stop`,
# and makes up the usage that never came with a tokenizer of its own. So it does for a stream without
# any chunk, for one that ends in an `event: error` with a flat message, and for a tool call whose
# arguments break off. Behind its proxy that is a proper end with [DONE]: nobody can tell any more. A
# finish reason `abort` of vLLM (the server gave the request up) becomes `stop`, too.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check litellm==1.108.7
cat > "$folder/finding.py" <<'PYTHON'
import http.server
import json
import threading

import litellm

litellm.suppress_debug_info = True


def chunk(delta, reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return f"data: {json.dumps(head | {'choices': [choice]})}\n\n"


hello, done = chunk({"role": "assistant", "content": "Hello "}), "data: [DONE]\n\n"
call = {"index": 0, "id": "c1", "type": "function"}
function = {"name": "remove", "arguments": '{"folder": "/home/me/pro'}
bodies = {
    "whole": hello + chunk({"content": "world."}, "stop") + done,
    "closed after half": hello + chunk({"content": "wor"}),
    "closed at once": "",
    "flat error": hello + 'event: error\ndata: {"message": "out of memory"}\n\n',
    "closed in a tool call": chunk({"role": "assistant", "tool_calls": [call | {"function": function}]}),
    "finish reason abort": hello + chunk({"content": "wor"}, "abort") + done,
    "error key": hello + 'data: {"error": {"message": "out of memory"}}\n\n',
}
names = list(bodies)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        data = bodies[names[int(self.path.split("/")[1])]].encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(data)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
seen = {}
for number, name in enumerate(names):
    text, arguments, reason, counted, how = "", "", None, False, "ended"
    try:
        for part in litellm.completion(
            model="hosted_vllm/m",
            api_base=f"http://127.0.0.1:{server.server_port}/{number}/v1",
            api_key="none",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
            max_retries=0,
        ):
            for choice in part.choices:
                text += choice.delta.content or ""
                for piece in choice.delta.tool_calls or []:
                    arguments += piece.function.arguments or ""
                reason = choice.finish_reason or reason
            counted = counted or bool(getattr(part, "usage", None))
    except Exception as exc:
        how = type(exc).__name__
    seen[name] = (text + arguments, reason, counted, how)
    print(f"{name}: {text + arguments!r}, finish reason {reason}, "
          f"usage {'made up' if counted else 'none'}, {how}")
expected = [
    ("Hello world.", "stop", True, "ended"),
    ("Hello wor", "stop", True, "ended"),
    ("", "stop", False, "ended"),
    ("Hello ", "stop", True, "ended"),
    ('{"folder": "/home/me/pro', "stop", True, "ended"),
    ("Hello wor", "stop", True, "ended"),
    ("Hello ", None, False, "MidStreamFallbackError"),
]
if list(seen.values()) != expected:
    raise SystemExit("changed")
PYTHON
cd "$folder"
LITELLM_LOCAL_MODEL_COST_MAP=True timeout 180 "$folder/venv/bin/python" -W ignore finding.py 2>"$folder/log" || { tail -5 "$folder/log"; exit 1; }
