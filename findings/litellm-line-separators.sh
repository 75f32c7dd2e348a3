#!/bin/sh
# litellm 1.108.7 and huggingface_hub 2.4.0 (run 2026-11): an event of a stream in which U+0085, U+2028 or
# U+2029 stands. In JSON they are characters like any other (RFC 8259, 7), and lines of a stream end with
# CR or LF alone (WHATWG HTML 9.2.6). Both read with httpx's `iter_lines`, which ends lines as Python's
# `str.splitlines` does, and so cut the event in two:
#
# - LiteLLM, for vLLM, DeepSeek, Groq and Mistral: what the event said is missing from the answer; for
#   Anthropic the answer ends before it; for Gemini the character is missing. All of it without an error,
#   with the finish reason `stop`. For OpenAI, whose SDK reads the stream, nothing is missing;
# - huggingface_hub raises JSONDecodeError.
#
# Texts from the web and from word processors have these characters, and a server that writes JSON without
# escapes sends them as they are.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
for package in litellm==1.108.7 huggingface_hub==2.4.0; do
    python3 -m venv "$folder/${package%%=*}"
    "$folder/${package%%=*}/bin/pip" install --quiet --no-compile --disable-pip-version-check "$package"
done
cat > "$folder/finding.py" <<'PYTHON'
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SAID = ("The first, ", "the second\u2028and the third, ", "the last.")
MESSAGES = [{"role": "user", "content": "Hello."}]


def openai_events():
    for text in (*SAID, None):
        choice = {"index": 0, "delta": {"content": text} if text else {}}
        choice["finish_reason"] = None if text else "stop"
        yield None, {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def anthropic_events():
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
    yield "message_start", {"message": message}
    yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
    for text in SAID:
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}}
    yield "content_block_stop", {"index": 0}
    yield "message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}
    yield "message_stop", {}


def gemini_events():
    for place, text in enumerate(SAID, start=1):
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}}
        yield None, {"candidates": [candidate | ({"finishReason": "STOP"} if place == len(SAID) else {})]}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if "messages" in self.path:
            events = anthropic_events()
        else:
            events = gemini_events() if "Generate" in self.path else openai_events()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.end_headers()
        for name, value in events:
            head = f"event: {name}\n" if name else ""
            value = value | ({"type": name} if name else {})
            self.wfile.write(f"{head}data: {json.dumps(value, ensure_ascii=False)}\n\n".encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"


def texts(chunks):
    """Return what was said, once it has ended well."""
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    return "".join(choice.delta.content or "" for choice in choices)


def by_litellm():
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    whole, lacking = "".join(SAID), SAID[0] + SAID[2]
    expected = {
        "openai/m": whole,
        "hosted_vllm/m": lacking,
        "deepseek/m": lacking,
        "groq/m": lacking,
        "mistral/m": lacking,
        "anthropic/claude-sonnet-4-5": SAID[0],
        "gemini/gemini-2.5-pro": whole.replace("\u2028", ""),
    }
    seen = {}
    for model in expected:
        chunks = litellm.completion(
            model=model, api_base=url, api_key="none", messages=MESSAGES, stream=True, max_retries=0
        )
        seen[model] = texts(chunks)
        print(f"litellm, {model}: {ascii(seen[model])}")
    return seen == expected


def by_huggingface_hub():
    from huggingface_hub import InferenceClient

    client = InferenceClient(base_url=url, api_key="none")
    try:
        print("huggingface_hub:", ascii(texts(client.chat_completion(MESSAGES, stream=True))))
    except json.JSONDecodeError as error:
        print(f"huggingface_hub: JSONDecodeError, {error}")
        return True
    return False


changed = not (by_litellm if sys.argv[1] == "litellm" else by_huggingface_hub)()
print("changed" if changed else "as written")
raise SystemExit(changed)
PYTHON
for package in litellm huggingface_hub; do
    "$folder/$package/bin/python" -W ignore "$folder/finding.py" "$package" 2> "$folder/log" ||
        { tail -n 3 "$folder/log"; exit 1; }
done
