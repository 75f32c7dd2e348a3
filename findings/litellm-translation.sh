#!/bin/sh
# litellm 1.108.7 (the library that is LiteLLM's proxy as well; run 2026-11), asked in one vendor's words for
# a model of another's. What follows is valid, is a 200, and its answer looks like any other:
#
# - from Anthropic's Messages to chat completions, which is how Claude Code gets to other models: a
#   document of plain text and a search result are not sent; a tool's result that is an error is sent as
#   one that is none; `disable_parallel_tool_use` is not sent, though it has a parameter there;
# - from chat completions to Gemini: a call without arguments, which many servers write as the empty text,
#   comes back to the model as a call with the argument `type`, "object";
# - from chat completions to Anthropic: a recording is not sent, nor is `response_format: json_object`.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check litellm==1.108.7
cat > "$folder/finding.py" <<'PYTHON'
import asyncio
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "So."}, "finish_reason": "stop"}
CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": USAGE}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "So."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
CANDIDATE = {"content": {"role": "model", "parts": [{"text": "So."}]}, "finishReason": "STOP"}
COUNTS = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
GEMINI = {"candidates": [CANDIDATE], "usageMetadata": COUNTS}
sent = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        sent.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        answer = GEMINI if "generateContent" in self.path else MESSAGE if "messages" in self.path else CHAT
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
TOOL = {"name": "read", "description": "Read.", "input_schema": {"type": "object", "properties": {}}}
FUNCTION = {"name": "read", "description": "Read.", "parameters": {"type": "object", "properties": {}}}
USE = {"type": "tool_use", "id": "t1", "name": "read", "input": {}}
FAILED = {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": "7"}
PLAIN = {"type": "text", "media_type": "text/plain", "data": "The contract."}
FOUND = {"type": "search_result", "source": "a", "title": "b", "content": [{"type": "text", "text": "A hit."}]}
ASK = {"type": "text", "text": "What does it say?"}


def messages(**request):
    """Ask an OpenAI-compatible server in Anthropic's words; return what it was sent."""
    asyncio.run(
        litellm.anthropic.messages.acreate(
            model="hosted_vllm/m", api_base=f"{url}/v1", api_key="none", max_tokens=9, **request
        )
    )
    return sent.pop()


def chat(model, **request):
    """Ask another vendor in OpenAI's words; return what it was sent."""
    litellm.completion(model=model, api_base=url, api_key="none", max_retries=0, **request)
    return sent.pop()


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


documents = messages(messages=[user({"type": "document", "source": PLAIN}, FOUND, ASK)])["messages"]
rounds = [user(ASK), {"role": "assistant", "content": [USE]}, user(FAILED)]
result = messages(messages=rounds, tools=[TOOL])["messages"][-1]
well = messages(messages=[*rounds[:2], user(FAILED | {"is_error": False})], tools=[TOOL])["messages"][-1]
one = messages(
    messages=[user(ASK)], tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}
)
call = {"id": "t1", "type": "function", "function": {"name": "read", "arguments": ""}}
history = [
    {"role": "user", "content": "Read it."},
    {"role": "assistant", "content": None, "tool_calls": [call]},
    {"role": "tool", "tool_call_id": "t1", "content": "7"},
]
gemini = chat("gemini/gemini-2.5-pro", messages=history, tools=[{"type": "function", "function": FUNCTION}])
arguments = gemini["contents"][1]["parts"][0]["function_call"]["args"]
sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
claude = "anthropic/claude-sonnet-4-5"
heard = chat(claude, messages=[user(sound, ASK)], response_format={"type": "json_object"})
plain = chat(claude, messages=[user(ASK)])

print("document and search result:", documents)
print("a tool's error:", result)
print("one call at a time:", {key: one.get(key) for key in ("tool_choice", "parallel_tool_calls")})
print("a call without arguments:", arguments)
print("recording, json_object:", heard)
facts = {
    "documents are gone": "The contract." not in str(documents) and "A hit." not in str(documents),
    "the question is there": ASK["text"] in str(documents),
    "an error is like a success": result == well,
    "several calls at a time": one.get("parallel_tool_calls") is None,
    "an argument too many": arguments == {"type": "object"},
    "nothing but the text is sent": heard == plain,
}
changed = not all(facts.values())
print(f"changed: {facts}" if changed else "as written")
raise SystemExit(changed)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/finding.py" 2> "$folder/log" || { tail -n 3 "$folder/log"; exit 1; }
