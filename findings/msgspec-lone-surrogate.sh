#!/bin/sh
# msgspec 0.22.0 (run 2026-11): a whole JSON text is said to be one that was cut, "Input data was
# truncated", when the first half of a UTF-16 pair stands fewer than six bytes before its end. Such halves
# come from texts that were shortened in the middle of an emoji (JavaScript's `slice`; its JSON.stringify
# and Python's json.dumps write them as `\ud83d`), and behind them a quotation mark and a bracket or two
# are often all there is. With six bytes or more behind it, or as the second half, it is "malformed".
# RFC 8259's grammar has such texts (section 8.2 leaves it to each reader what to make of them), and
# Python's `json` reads them; who waits for more at "truncated" waits for nothing. pydantic_core 2.50.5
# and orjson 3.13.0 refuse them too, with the same words wherever they stand.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    msgspec==0.22.0 orjson==3.13.0 pydantic_core==2.50.5
cat > "$folder/finding.py" <<'PYTHON'
import json
import re

import msgspec
import orjson
import pydantic_core

READERS = {
    "msgspec": msgspec.json.decode,
    "orjson": orjson.loads,
    "pydantic_core": pydantic_core.from_json,
}
FEW = ["Hi \ud83d", ["Hi \ud83d"], {"text": "Hi \ud83d"}, [{"text": "Hi \ud83d"}]]
MANY = [{"text": "Hi \ud83d", "n": 1}, "Hi \ud83d, there"]


def refusal(reader, text):
    """Return what a reader says of a text, less the place."""
    try:
        READERS[reader](text)
    except ValueError as exc:
        return re.split(": line| at line| [(]byte", str(exc))[0]
    return "read"


seen = {}
for value in [*FEW, *MANY]:
    text = json.dumps(value)
    assert json.loads(text) == value
    print(text)
    for reader in READERS:
        said = refusal(reader, text)
        seen.setdefault(reader, []).append(said)
        print(f"  {reader}: {said}")
cut = refusal("msgspec", json.dumps(FEW[3])[:-2])
second = refusal("msgspec", json.dumps("Hi \ude00"))
print(f"msgspec, of a text that was cut: {cut}; of the second half: {second}")
if (
    cut != "Input data was truncated"
    or seen["msgspec"][:4] != [cut] * 4
    or not all(said.startswith("JSON is malformed") for said in [*seen["msgspec"][4:], second])
    or seen["orjson"] != ["no low surrogate in string"] * 6
    or seen["pydantic_core"] != ["unexpected end of hex escape"] * 6
):
    raise SystemExit("changed")
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
