#!/bin/sh
# langchain-core 1.8.3 with langchain-openai 1.7.4 (`with_fallbacks`), litellm 1.108.7 (`Router`) and
# pydantic-ai-slim 2.68.0 (`FallbackModel`), run 2026-11: two servers, the second well. Which faults of the
# first, before a word was said, bring the second's answer when it is asked for a stream?
#
# - A server that has begun, and then says that it is overloaded: LangChain gives up. It falls back until
#   the first chunk, and takes for one the chunk with the role, which servers send before they have
#   computed anything. The same request without a stream falls back. The other two do;
# - a server that closes without a word, or ends with `stop` and no word: no fallback in any of the three.
#   LangChain and LiteLLM hand out an empty answer as a success, pydantic-ai raises.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/litellm"
"$folder/litellm/bin/pip" install --quiet --no-compile --disable-pip-version-check litellm==1.108.7
python3 -m venv "$folder/others"
"$folder/others/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    langchain-core==1.8.3 langchain-openai==1.7.4 'pydantic-ai-slim[openai]==2.68.0' openai==3.57.0
cat > "$folder/finding.py" <<'PYTHON'
import asyncio
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


def chunk(delta, reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return head | {"choices": [choice]}


ROLE = chunk({"role": "assistant", "content": ""})
OVERLOADED = {"error": {"message": "The server is overloaded.", "code": 503}}
FAULTS = {
    "an error at once": [OVERLOADED],
    "an error behind the role": [ROLE, OVERLOADED],
    "closed behind the role": [ROLE],
    "stop without a word": [ROLE, chunk({}, "stop")],
}
SECOND = "The second answers."
WELL = [ROLE, chunk({"content": SECOND}), chunk({}, "stop")]
QUESTION = "Hello?"
played = {}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in played[body["model"]]:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"


def langchain(*, streams=True):
    from langchain_openai import ChatOpenAI

    first, second = (
        ChatOpenAI(model=name, base_url=url, api_key="none", max_retries=0, streaming=True)
        for name in ("first", "second")
    )
    model = first.with_fallbacks([second])
    if not streams:
        return model.invoke(QUESTION).content
    return "".join(piece.content for piece in model.stream(QUESTION))


def litellm():
    from litellm import Router

    models = [
        {
            "model_name": name,
            "litellm_params": {"model": f"hosted_vllm/{name}", "api_base": url, "api_key": "none"},
        }
        for name in ("first", "second")
    ]
    router = Router(model_list=models, fallbacks=[{"first": ["second"]}], num_retries=0)
    asked = [{"role": "user", "content": QUESTION}]
    pieces = router.completion(model="first", messages=asked, stream=True)
    return "".join(piece.choices[0].delta.content or "" for piece in pieces)


def pydantic_ai():
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def ask():
        client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        provider = OpenAIProvider(openai_client=client)
        models = [OpenAIChatModel(name, provider=provider) for name in ("first", "second")]
        async with Agent(FallbackModel(*models)).run_stream(QUESTION) as run:
            return await run.get_output()

    return asyncio.run(ask())


def outcome(ask, **how):
    try:
        return ask(**how)
    except Exception as error:
        return type(error).__name__


expected = {
    "langchain": [SECOND, "APIError", "", ""],
    "litellm": [SECOND, SECOND, "", ""],
    "pydantic_ai": [SECOND, SECOND, "UnexpectedModelBehavior", "UnexpectedModelBehavior"],
}
changed = False
for ask in [litellm] if sys.argv[1] == "litellm" else [langchain, pydantic_ai]:
    seen = []
    for fault, events in FAULTS.items():
        played.update(first=events, second=WELL)
        seen.append(outcome(ask))
        print(f"{ask.__name__}, {fault}: {seen[-1]!r}")
    changed |= seen != expected[ask.__name__]
if sys.argv[1] != "litellm":
    played.update(first=FAULTS["an error behind the role"], second=WELL)
    whole = outcome(langchain, streams=False)
    print(f"langchain, an error behind the role, invoke: {whole!r}")
    changed |= whole != SECOND
print("changed" if changed else "as written")
raise SystemExit(changed)
PYTHON
for environment in litellm others; do
    timeout 100 "$folder/$environment/bin/python" -W ignore "$folder/finding.py" "$environment" \
        2> "$folder/log" || { tail -n 3 "$folder/log"; exit 1; }
done
