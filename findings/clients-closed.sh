#!/bin/sh
# google-genai 3.6.1 and huggingface_hub 2.4.0 (Python, run 2026-11): what a client made stops working when
# nobody holds the client itself any more. Both close their connections when the object is collected, and
# what they hand out (`client.models`, a chat, a stream of chunks) does not hold it:
#
# - google-genai: `Client().models.generate_content(…)` in one expression fails, as does a chat that a
#   function returns: RuntimeError, "the client has been closed". The asynchronous `aio` does not;
# - huggingface_hub: a stream that a function returns fails at its first chunk (StreamClosed).
#
# openai 3.57.0, whose client is used in the same way, serves all of these.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    google-genai==3.6.1 huggingface_hub==2.4.0 openai==3.57.0
cat > "$folder/finding.py" <<'PYTHON'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google import genai
from huggingface_hub import InferenceClient
from openai import OpenAI

MESSAGES = [{"role": "user", "content": "Hello."}]
CANDIDATE = {"content": {"role": "model", "parts": [{"text": "So."}]}, "finishReason": "STOP"}
CHOICE = {"index": 0, "delta": {"content": "So."}, "finish_reason": "stop"}
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [CHOICE]}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        value = {"candidates": [CANDIDATE]} if "generate" in self.path.lower() else CHUNK
        streams = "generateContent" not in self.path
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streams else "application/json")
        self.end_headers()
        text = json.dumps(value)
        try:
            self.wfile.write((f"data: {text}\n\n" if streams else text).encode())
        except ConnectionError:
            pass

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"


def google():
    return genai.Client(api_key="none", http_options={"base_url": url})


def google_expression():
    return google().models.generate_content(model="m", contents="Hello.").text


def google_held():
    client = google()
    return client.models.generate_content(model="m", contents="Hello.").text


def google_chat():
    def chat():
        return google().chats.create(model="m")

    return chat().send_message("Hello.").text


def google_asynchronous():
    async def ask():
        return (await google().aio.models.generate_content(model="m", contents="Hello.")).text

    return asyncio.run(ask())


def said(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def huggingface_stream():
    def stream():
        client = InferenceClient(base_url=url, api_key="none")
        return client.chat_completion(MESSAGES, stream=True)

    return said(stream())


def openai_stream():
    def stream():
        client = OpenAI(base_url=url, api_key="none", max_retries=0)
        return client.chat.completions.create(model="m", messages=MESSAGES, stream=True)

    return said(stream())


def openai_expression():
    def completions():
        return OpenAI(base_url=url, api_key="none", max_retries=0).chat.completions

    return said(completions().create(model="m", messages=MESSAGES, stream=True))


expected = {
    google_held: "So.",
    google_expression: "RuntimeError",
    google_chat: "RuntimeError",
    google_asynchronous: "So.",
    huggingface_stream: "StreamClosed",
    openai_stream: "So.",
    openai_expression: "So.",
}
changed = False
for ask, outcome in expected.items():
    try:
        seen = ask()
    except Exception as error:
        seen = type(error).__name__
    print(f"{ask.__name__}: {seen}")
    changed |= seen != outcome
print("changed" if changed else "as written")
raise SystemExit(changed)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/finding.py" 2> "$folder/log" || { tail -n 3 "$folder/log"; exit 1; }
