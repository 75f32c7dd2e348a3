#!/bin/sh
# @langchain/anthropic 1.5.11 (JavaScript) and langchain-anthropic 1.7.10 (Python), run 2026-11: of the
# same stream of the Messages API the two count different tokens, and each is wrong about streams that the
# other one, and the SDKs below them, read well. `message_start` must have both counts; those of
# `message_delta` are totals, not additions (MessageDeltaUsage of the SDKs: "cumulative"), and only its
# `output_tokens` has to be there.
#
# - JavaScript: the prompt's tokens come from `message_start` alone, so that the prompt of a gateway that
#   learns them at the end has 0; the answer's are the *sum* of both events, so that the one token in
#   `message_start`, as in the example of Anthropic's documentation, is counted twice;
# - Python: both come from `message_delta` alone, so that a prompt whose tokens stand in `message_start`, as
#   in the same example, has 0 (upstream: langchain #35509).
#
# Only a stream with the prompt's tokens in both events, and 0 of the answer's in the first, is counted
# right by both. anthropic 2.14.0 and @anthropic-ai/sdk 1.14.0 count all four right.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    langchain-anthropic==1.7.10 langchain-core==1.8.3 anthropic==2.14.0
npm install --silent --no-fund --no-audit --prefix "$folder" \
    @langchain/anthropic@1.5.11 @langchain/core@1.4.0 @anthropic-ai/sdk@1.14.0
cat > "$folder/finding.mjs" <<'JS'
import Anthropic from '@anthropic-ai/sdk'
import { ChatAnthropic } from '@langchain/anthropic'

const baseURL = process.argv[2]
const model = new ChatAnthropic({ model: 'm', apiKey: 'none', anthropicApiUrl: baseURL, maxRetries: 0 })
let whole
for await (const chunk of await model.stream('hi')) whole = whole ? whole.concat(chunk) : chunk
const client = new Anthropic({ apiKey: 'none', baseURL, maxRetries: 0 })
const messages = [{ role: 'user', content: 'hi' }]
const { usage } = await client.messages.stream({ model: 'm', max_tokens: 9, messages }).finalMessage()
const counts = ({ input_tokens, output_tokens }) => [input_tokens, output_tokens]
console.log(JSON.stringify([counts(usage), counts(whole.usage_metadata)]))
JS
cat > "$folder/finding.py" <<'PYTHON'
import functools
import http.server
import json
import operator
import subprocess
import threading

import anthropic
from langchain_anthropic import ChatAnthropic

CASES = {
    "prompt at the start": ((25, 1), {"output_tokens": 9}),
    "prompt at the end": ((0, 0), {"input_tokens": 25, "output_tokens": 9}),
    "prompt in both": ((25, 1), {"input_tokens": 25, "output_tokens": 9}),
    "prompt in both, 0 at the start": ((25, 0), {"input_tokens": 25, "output_tokens": 9}),
}


def events(case):
    """Return a stream whose counts stand where a case has them."""
    (prompt, answer), ended = CASES[case]
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": prompt, "output_tokens": answer},
    }
    text, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hello."}
    done = {"stop_reason": "end_turn", "stop_sequence": None}
    for event in (
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": text},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": done, "usage": ended},
        {"type": "message_stop"},
    ):
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        data = "".join(events(case)).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
seen = {}
for case in CASES:
    client = anthropic.Anthropic(api_key="none", base_url=url, max_retries=0)
    with client.messages.stream(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        usage = stream.get_final_message().usage
    model = ChatAnthropic(model="m", api_key="none", base_url=url, max_retries=0)
    whole = functools.reduce(operator.add, model.stream("hi")).usage_metadata
    run = subprocess.run(
        ["node", "finding.mjs", url], check=True, capture_output=True, text=True, timeout=60
    )
    sdk, javascript = json.loads(run.stdout)
    seen[case] = {
        "anthropic": [usage.input_tokens, usage.output_tokens],
        "@anthropic-ai/sdk": sdk,
        "langchain-anthropic": [whole["input_tokens"], whole["output_tokens"]],
        "@langchain/anthropic": javascript,
    }
    print(f"{case}:", *(f"{name} {counts}" for name, counts in seen[case].items()), sep="\n  ")
expected = [
    ([25, 9], [25, 9], [0, 9], [25, 10]),
    ([25, 9], [25, 9], [25, 9], [0, 9]),
    ([25, 9], [25, 9], [25, 9], [25, 10]),
    ([25, 9], [25, 9], [25, 9], [25, 9]),
]
if [tuple(counts.values()) for counts in seen.values()] != expected:
    raise SystemExit("changed")
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py
