"""Run a gateway in a thread of its own, in front of servers that play exact bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import anthropic
import msgspec
import openai
from wire_support import Play, RawServer, answers, raw_server

from tieredllm.aio import run
from tieredllm.client import FallbackManager
from tieredllm.files import Places
from tieredllm.profile.schema import Profile
from tieredllm.serve.app import Gateway
from tieredllm.serve.server import GatewayServer, listen

WORDS = ("Well", ", tier ", "one ", "says", " this.")
FIRST = "".join(WORDS)
SECOND = "The second answers."
ONE = answers("openai", *WORDS)
TWO = answers("openai", SECOND)


class Served:
    """A running gateway, seen from the tests' own thread."""

    def __init__(self) -> None:
        self.url = ""
        self.gateway: Gateway
        self.server: GatewayServer
        self.upstreams: list[RawServer] = []
        self.loop: asyncio.AbstractEventLoop
        self.reports: list[str] = []

    def openai(self, **extra) -> openai.OpenAI:
        """Make OpenAI's client."""
        extra.setdefault("max_retries", 0)
        extra.setdefault("timeout", 20)
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=extra.pop("key", "none"), **extra)

    def anthropic(self, **extra) -> anthropic.Anthropic:
        """Make Anthropic's client."""
        extra.setdefault("max_retries", 0)
        extra.setdefault("timeout", 20)
        return anthropic.Anthropic(base_url=self.url, api_key=extra.pop("key", "none"), **extra)

    def call(self, function, *args):
        """Run a function in the gateway's thread, and return its result."""

        async def calling():
            return function(*args)

        return asyncio.run_coroutine_threadsafe(calling(), self.loop).result(5)

    @contextlib.contextmanager
    def watching_lag(self) -> Iterator[list[float]]:
        """Note by how much each short sleep of the gateway's loop was too long, in seconds."""
        late: list[float] = []

        async def watch() -> None:
            while True:
                started = time.monotonic()
                await asyncio.sleep(0.005)
                late.append(max(0.0, time.monotonic() - started - 0.005))

        task = asyncio.run_coroutine_threadsafe(watch(), self.loop)
        try:
            yield late
        finally:
            task.cancel()

    def raw(self, data: bytes, *, until_closed: bool = True) -> bytes:
        """Send bytes as they are; return all that comes back."""
        with self.connect() as sock:
            sock.sendall(data)
            received = b""
            while piece := sock.recv(65536):
                received += piece
                if not until_closed:
                    break
            return received

    def connect(self) -> socket.socket:
        """Open a connection."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return socket.create_connection((host, int(port)), timeout=20)

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request without any SDK; return status, headers and body."""
        import http.client

        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)
        with contextlib.closing(connection):
            data = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
            sent = {"content-type": "application/json"} if data is not None else {}
            connection.request(method, path, data, sent | (headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            try:
                content = answer.read()
            except http.client.IncompleteRead as exc:
                found["broken"] = "yes"
                content = exc.partial
            return answer.status, found, content


def profile_of(
    urls: list[str], *, rules: bool = False, tier: dict | None = None, **settings
) -> Profile:
    """Make a profile of OpenAI-compatible tiers t1, t2 …, with or without rules."""
    tiers = [
        {
            "name": f"t{number}",
            "provider": "openai",
            "model": f"m{number}",
            "base_url": url,
            "api_key_env": None,
            "retries": 0,
            **(tier or {}),
        }
        for number, url in enumerate(urls, 1)
    ]
    if rules:
        tiers.append({"name": "rules", "provider": "rules"})
    return msgspec.convert({"name": "test", "tiers": tiers, **settings}, Profile)


@contextlib.contextmanager
def serving(
    *plays: Play | bytes,
    tmp: Path,
    rules: bool = False,
    tier: dict | None = None,
    simulate: dict | None = None,
    grace_s: float = 5.0,
    profile: Profile | None = None,
    settings: dict | None = None,
    **options,
) -> Iterator[Served]:
    """Run a gateway whose tiers are servers that play these scripts, in order.

    Args:
        plays: one for each tier.
        tmp: where its directories are.
        rules: whether rules come last.
        tier: settings of each tier.
        simulate: faults by tier.
        grace_s: how long a drain may take.
        profile: another profile, without any server.
        settings: more of the profile.
        options: the gateway's.
    """
    served = Served()
    started = threading.Event()
    failed: list[BaseException] = []

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for play in plays:
                served.upstreams.append(await stack.enter_async_context(raw_server(play)))
            made = profile or profile_of(
                [server.url for server in served.upstreams],
                rules=rules,
                tier=tier,
                **(settings or {}),
            )
            env = {"TIEREDLLM_HOME": str(tmp)}
            manager = FallbackManager(
                made, env=env, places=Places.from_environment(env), simulate=simulate
            )
            served.gateway = Gateway(manager, report=served.reports.append, **options)
            served.server = GatewayServer(served.gateway, grace_s=grace_s, on_start=started.set)
            served.loop = asyncio.get_running_loop()
            sock = listen("127.0.0.1", 0)
            served.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            await served.server.serve(sockets=[sock])
            await manager.aclose()

    def work() -> None:
        try:
            run(main())
        except BaseException as exc:
            failed.append(exc)
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(20)
        if not failed:
            yield served
    finally:
        if not failed:
            served.loop.call_soon_threadsafe(served.server.end, 2)
        thread.join(20)
        assert not thread.is_alive()
        if failed:
            raise failed[0]
    assert served.reports == []


def wait_until(condition, *, within_s: float = 5.0) -> None:
    """Wait for something that another thread brings about."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


QUESTION = [{"role": "user", "content": "Why?"}]


class Chat:
    """OpenAI's chat completions, as its SDK uses them."""

    error = openai.OpenAIError
    status_error = openai.APIStatusError
    path = "/v1/chat/completions"
    body: ClassVar[dict[str, Any]] = {"model": "tieredllm", "messages": QUESTION}

    @staticmethod
    def ask(served: Served, **extra) -> str:
        with served.openai() as client:
            answer = client.chat.completions.create(model="tieredllm", messages=QUESTION, **extra)
        return answer.choices[0].message.content

    @staticmethod
    def stream(served: Served, said: list[str], **extra) -> None:
        with (
            served.openai() as client,
            client.chat.completions.create(
                model="tieredllm", messages=QUESTION, stream=True, **extra
            ) as events,
        ):
            for chunk in events:
                said += [choice.delta.content or "" for choice in chunk.choices]


class Messages:
    """Anthropic's messages, as its SDK uses them."""

    error = anthropic.AnthropicError
    status_error = anthropic.APIStatusError
    path = "/v1/messages"
    body: ClassVar[dict[str, Any]] = {"model": "tieredllm", "max_tokens": 100, "messages": QUESTION}

    @staticmethod
    def ask(served: Served, **extra) -> str:
        with served.anthropic() as client:
            answer = client.messages.create(
                model="tieredllm", max_tokens=100, messages=QUESTION, **extra
            )
        return "".join(block.text for block in answer.content if block.type == "text")

    @staticmethod
    def stream(served: Served, said: list[str], **extra) -> None:
        with (
            served.anthropic() as client,
            client.messages.stream(
                model="tieredllm", max_tokens=100, messages=QUESTION, **extra
            ) as events,
        ):
            said.extend(events.text_stream)


class Responses:
    """OpenAI's responses, as its SDK uses them."""

    error = openai.OpenAIError
    status_error = openai.APIStatusError
    path = "/v1/responses"
    body: ClassVar[dict[str, Any]] = {"model": "tieredllm", "input": "Why?"}

    @staticmethod
    def ask(served: Served, **extra) -> str:
        with served.openai() as client:
            return client.responses.create(model="tieredllm", input="Why?", **extra).output_text

    @staticmethod
    def stream(served: Served, said: list[str], **extra) -> None:
        with (
            served.openai() as client,
            client.responses.stream(model="tieredllm", input="Why?", **extra) as events,
        ):
            for event in events:
                if event.type == "response.output_text.delta":
                    said.append(event.delta)


WIRES = {"chat": Chat, "messages": Messages, "responses": Responses}
