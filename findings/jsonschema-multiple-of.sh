#!/bin/sh
# jsonschema 4.26.0 (Python) and ajv 8.20.0 (JavaScript), run 2026-11: an amount of money is no multiple of
# a cent. JSON Schema's `multipleOf` is about the number (Validation 2020-12, 6.2.1: "division by this
# keyword's value results in an integer"), and the number in `19.99` divided by the one in `0.01` is 1999.
# Both divide what binary fractions make of them: one amount in seven below 100 is refused. jsonschema
# has exact fractions and takes them only when the division overflows; pydantic 2.14.4 allows for the error.
# So a model's right answer is thrown away, and asking again brings the same.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jsonschema==4.26.0 pydantic==2.14.4
npm install --silent --no-fund --no-audit --prefix "$folder" ajv@8.20.0
cat > "$folder/amounts.js" <<'JS'
const Ajv = require("ajv/dist/2020")
const valid = new Ajv().compile({ type: "number", multipleOf: 0.01 })
const refused = []
for (let cents = 0; cents < 10000; cents++) {
  const text = `${Math.floor(cents / 100)}.${String(cents % 100).padStart(2, "0")}`
  if (!valid(JSON.parse(text))) refused.push(text)
}
console.log(JSON.stringify(refused))
JS
cat > "$folder/finding.py" <<'PYTHON'
import json
import subprocess
from typing import Annotated

import pydantic
from jsonschema import Draft202012Validator

TEXTS = [f"{cents // 100}.{cents % 100:02}" for cents in range(10_000)]
schema = Draft202012Validator({"multipleOf": 0.01})
amount = pydantic.TypeAdapter(Annotated[float, pydantic.Field(multiple_of=0.01)])


def allowed(text):
    try:
        amount.validate_json(text)
    except pydantic.ValidationError:
        return False
    return True


refused = {
    "jsonschema": [text for text in TEXTS if not schema.is_valid(json.loads(text))],
    "ajv": json.loads(subprocess.check_output(["node", "amounts.js"])),
    "pydantic": [text for text in TEXTS if not allowed(text)],
}
for name, texts in refused.items():
    print(f"{name}: {len(texts)} of {len(TEXTS)} refused", *texts[:5])
changed = (
    "19.99" not in refused["jsonschema"]
    or refused["jsonschema"] != refused["ajv"]
    or refused["pydantic"]
)
print("changed" if changed else "as written")
raise SystemExit(bool(changed))
PYTHON
cd "$folder"
"$folder/venv/bin/python" finding.py
