#!/bin/sh
# llama-index-core 0.14.25 (llama-index-llms-openai 0.8.3), pydantic-ai-slim 2.68.0 and openai-agents 0.24.0
# (run 2026-11): an agent runs a streamed tool call that was cut at the token limit, with arguments that
# the model did not give. `finish_reason: length` stands beside the call and stops none of the three:
#
# - LlamaIndex reads half a text of JSON as far as it goes: a number is run with the digits that had come, a
#   list with the items that had, a text that was begun is None, which its parameter's type does not allow;
# - in all three a call that was cut before its arguments, whose text of arguments is empty, is a call
#   without arguments, and every parameter takes its default.
#
# A stream that just ends, without any finish reason, is the same to them. pydantic-ai and openai-agents
# tell the model of half a text of JSON, and run nothing. (LangChain: langchain-cut-tool-call.sh.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/llama_index"
"$folder/llama_index/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    llama-index-core==0.14.25 llama-index-llms-openai==0.8.3
python3 -m venv "$folder/agents"
"$folder/agents/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    'pydantic-ai-slim[openai]==2.68.0' openai-agents==0.24.0 openai==3.57.0
cat > "$folder/finding.py" <<'PYTHON'
import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CUT = {
    "a number": '{"folder": "/home/me", "older_than": 3',
    "a list": '{"folder": "/home/me", "keep": ["letters", "photos", "tax',
    "a text": '{"folder": "/home/me/pro',
    "nothing": "",
}
DEFAULTS = {"folder": "/", "keep": None, "older_than": 0}
asked = {"arguments": "", "ends": True, "before": False}
ran = []


def clean(folder: str = "/", keep: list[str] | None = None, older_than: int = 0) -> str:
    """Remove what is in a folder."""
    ran.append({"folder": folder, "keep": keep, "older_than": older_than})
    return "Done."


class Server(BaseHTTPRequestHandler):
    """Call the tool at the first request, and stop in the middle; say a word at the second."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        function = {"name": "clean", "arguments": asked["arguments"]}
        call = {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}
        events = [({"content": "So."}, "stop")] if asked["before"] else [(call, None), ({}, "length")]
        events = events if asked["before"] or asked["ends"] else events[:1]
        asked["before"] = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for delta, reason in events:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            self.wfile.write(f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n".encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"


async def by_llama_index():
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.llms.openai import OpenAI

    model = OpenAI(model="gpt-4o", api_base=url, api_key="none", max_retries=0)
    await FunctionAgent(tools=[clean], llm=model).run("Clean up.")


async def by_pydantic_ai():
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
    async with Agent(model, tools=[clean]).run_stream("Clean up.") as run:
        await run.get_output()


async def by_openai_agents():
    from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    tool = function_tool(clean, strict_mode=False)
    agent = Agent("a", model=OpenAIChatCompletionsModel("m", client), tools=[tool])
    async for _ in Runner.run_streamed(agent, "Clean up.").stream_events():
        pass


half = {
    "a number": [DEFAULTS | {"folder": "/home/me", "older_than": 3}],
    "a list": [DEFAULTS | {"folder": "/home/me", "keep": ["letters", "photos"]}],
    "a text": [DEFAULTS | {"folder": None}],
}
refused = dict.fromkeys(half, [])
expected = {by_llama_index: half, by_pydantic_ai: refused, by_openai_agents: refused}
chosen = [by_llama_index] if sys.argv[1] == "llama_index" else [by_pydantic_ai, by_openai_agents]
changed = False
for agent in chosen:
    for ends in (True, False):
        for where in CUT if ends else ("a number", "nothing"):
            asked.update(arguments=CUT[where], ends=ends, before=False)
            ran.clear()
            asyncio.run(agent())
            how = "length" if ends else "no finish reason"
            print(f"{agent.__name__[3:]}, cut in {where}, {how}: ran {ran or 'nothing'}")
            changed |= ran != (expected[agent] | {"nothing": [DEFAULTS]})[where]
print("changed" if changed else "as written")
raise SystemExit(changed)
PYTHON
for environment in llama_index agents; do
    timeout 100 "$folder/$environment/bin/python" -W ignore "$folder/finding.py" "$environment" \
        2> "$folder/log" || { tail -n 3 "$folder/log"; exit 1; }
done
