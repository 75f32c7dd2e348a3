#!/bin/sh
# anthropic 2.14.0 (Python, `messages.parse`) and litellm 1.108.7 (`response_format`), run 2026-11: a field that
# is a map, `dict[str, float]` of pydantic, may hold nothing in the schema that they send to Anthropic. Claude's
# structured outputs know no `additionalProperties` but false, and both write false over the schema of the
# values without a word: the only value that is allowed there is {}. A model that is held to it has to leave
# out what it found, and the result is valid: prices, translations, counts by name are silently empty.
# openai 3.57.0 sends the schema as it is, for its server to refuse; google-genai 3.6.1 raises ValueError.
# Other things that cannot be kept to, such as `minimum`, anthropic at least tells in a description.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
for package in anthropic==2.14.0 litellm==1.108.7; do
    python3 -m venv "$folder/${package%%=*}"
    "$folder/${package%%=*}/bin/pip" install --quiet --no-compile --disable-pip-version-check "$package" jsonschema==4.26.0
done
cat > "$folder/finding.py" <<'PYTHON'
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from jsonschema import Draft202012Validator
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "What do the fruits cost?"}]
sent = {}


class Offer(BaseModel):
    shop: str
    prices: dict[str, float]


EMPTY = Offer(shop="Corner", prices={})
FULL = Offer(shop="Corner", prices={"apple": 1.2, "pear": 0.9})


class Server(BaseHTTPRequestHandler):
    """Stand in for Claude: answer the fuller of two offers that the schema allows."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        held = body.get("output_format") or body["output_config"]["format"]
        sent.update(held["schema"])
        allowed = Draft202012Validator(held["schema"]).is_valid
        text = next(offer for offer in (FULL, EMPTY) if allowed(offer.model_dump())).model_dump_json()
        message = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
        message |= {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
        message |= {"stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(message).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
if sys.argv[1] == "anthropic":
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    answer = client.messages.parse(
        model="claude-sonnet-4-5", max_tokens=99, messages=MESSAGES, output_format=Offer
    ).parsed_output
else:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    done = litellm.completion(
        model="anthropic/claude-sonnet-4-5",
        api_base=url,
        api_key="none",
        messages=MESSAGES,
        response_format=Offer,
        max_retries=0,
    )
    answer = Offer.model_validate_json(done.choices[0].message.content)
print(f"{sys.argv[1]} sent {sent['properties']['prices']} and got {answer!r}")
changed = answer != EMPTY
print("changed" if changed else "as written")
raise SystemExit(changed)
PYTHON
for package in anthropic litellm; do
    "$folder/$package/bin/python" -W ignore "$folder/finding.py" "$package" 2> "$folder/log" ||
        { tail -n 3 "$folder/log"; exit 1; }
done
