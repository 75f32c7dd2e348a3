#!/bin/sh
# anthropic 2.14.0 (Python) and @anthropic-ai/sdk 1.14.0 (TypeScript), run 2026-11: `tool_runner` has the
# server keep the conversation unless it is told `thread=False`, whatever the base URL. The first request
# says `thread: {"type": "create"}`. The second has the tool's result alone, without the question, the
# call, the system prompt and the tools, and names the message that it goes on from. Nothing in the first
# answer has to say that this was understood: a server of the Messages API that leaves out fields it does
# not know answers the result without its question, and the run ends as a success. A 400 whose `details`
# have the `error_code` `thread_unsupported_request` makes both SDKs send the whole conversation.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0
npm install --silent --no-fund --no-audit --prefix "$folder" @anthropic-ai/sdk@1.14.0
cat > "$folder/runner.mjs" <<'JS'
import Anthropic from '@anthropic-ai/sdk'
const weather = {
  type: 'custom', name: 'weather', description: 'Weather.',
  input_schema: { type: 'object', properties: {} },
  parse: (value) => value, run: async () => 'sunny',
}
const client = new Anthropic({ apiKey: 'none', baseURL: process.argv[2], maxRetries: 0 })
const runner = client.beta.messages.toolRunner({
  model: 'm', max_tokens: 9, system: 'Be short.', tools: [weather],
  messages: [{ role: 'user', content: 'Is it sunny in Bern?' }],
})
console.log((await runner.runUntilDone()).content[0].text)
JS
cat > "$folder/finding.py" <<'PYTHON'
import http.server
import json
import subprocess
import threading

import anthropic

USAGE = {"input_tokens": 1, "output_tokens": 1}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
REFUSAL = {
    "type": "invalid_request_error", "message": "No threads here.",
    "details": {"error_code": "thread_unsupported_request"},
}
requests = []
refuses = False


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        requests.append(asked)
        result = "tool_result" in json.dumps(asked["messages"])
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "usage": USAGE,
            "stop_reason": "end_turn" if result else "tool_use", "stop_sequence": None,
            "content": [{"type": "text", "text": "Yes."} if result else CALL],
        }
        refused = refuses and asked.get("thread", {}).get("type") == "continue"
        said = {"type": "error", "error": REFUSAL} if refused else message
        data = json.dumps(said).encode()
        self.send_response(400 if refused else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@anthropic.beta_tool
def weather() -> str:
    """Weather."""
    return "sunny"


def python(url):
    client = anthropic.Anthropic(api_key="none", base_url=url, max_retries=0)
    runner = client.beta.messages.tool_runner(
        model="m", max_tokens=9, system="Be short.", tools=[weather],
        messages=[{"role": "user", "content": "Is it sunny in Bern?"}],
    )
    return runner.until_done().content[0].text


def typescript(url):
    run = subprocess.run(
        ["node", "runner.mjs", url], check=True, capture_output=True, text=True, timeout=60
    )
    return run.stdout.strip()


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
HEAD, TAIL = {"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}
FIRST, LATER, WHOLE = (HEAD, 1, True, True), (TAIL, 1, False, False), (None, 3, True, True)
changed = False
for refuses, expected in ((False, [FIRST, LATER]), (True, [FIRST, LATER, WHOLE])):
    for ask in (python, typescript):
        requests.clear()
        text = ask(url)
        seen = [
            (asked.get("thread"), len(asked["messages"]), "system" in asked, "tools" in asked)
            for asked in requests
        ]
        print(f"{ask.__name__}, a server that {'refuses' if refuses else 'ignores'} threads:")
        for thread, count, system, tools in seen:
            print(f"  {count} messages, system {system}, tools {tools}, thread {json.dumps(thread)}")
        print(f"  ends with {text!r}")
        changed |= (text, seen) != ("Yes.", expected)
raise SystemExit("changed" if changed else 0)
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py
