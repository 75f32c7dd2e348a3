"""`tieredllm serve`: the tiers for every program that can be given a base URL."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Annotated

import typer

from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import GlobalOptions, RequestCommand, finite, make_app, takes_options

__all__ = ["app"]

app = make_app("serve")

SEQUENCES = 8
"""How many answers the local model makes at the same time; further requests wait for their turn."""

EXAMPLES = """Examples:

\b
  tieredllm serve
  OPENAI_BASE_URL=http://127.0.0.1:4141/v1 OPENAI_API_KEY=none some-program
  ANTHROPIC_BASE_URL=http://127.0.0.1:4141 ANTHROPIC_API_KEY=none claude
  tieredllm keys set OWN_KEY && tieredllm serve --host 0.0.0.0 --key OWN_KEY
"""


@app.command(cls=RequestCommand, epilog=EXAMPLES)
@takes_options(GlobalOptions)
def serve(
    *,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="PORT", help="The port; 0 for any that is free.", min=0, max=65535
        ),
    ] = 4141,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="NAME",
            help="A variable, or stored key, that clients have to show (repeatable).",
        ),
    ] = None,
    max_requests: Annotated[
        int,
        typer.Option("--max-requests", metavar="N", help="Answer so many at the same time.", min=1),
    ] = 64,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            help="After SIGTERM, let running requests finish for so long.",
            min=0,
            callback=finite,
        ),
    ] = 30.0,
    strict_models: Annotated[
        bool,
        typer.Option(
            "--strict-models", help="Refuse unknown model names instead of asking all tiers."
        ),
    ] = False,
    require_llm: Annotated[
        bool, typer.Option("--require-llm", help="Fail rather than let the rules answer.")
    ] = False,
) -> None:
    """Serve the tiers to any program that can be given a base URL.

    OpenAI's Chat Completions and Responses and Anthropic's Messages, under one address. Loopback
    needs no key; any other address does not start without one.
    """
    from tieredllm.aio import run
    from tieredllm.client import FallbackManager
    from tieredllm.errors import UsageError
    from tieredllm.serve.app import Gateway, is_loopback
    from tieredllm.serve.server import GatewayServer, listen

    environment = current()
    keys = _keys(key or [], environment)
    if not keys and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached by other machines: name a key that they have to show, as in "
            "`--key NAME` (an environment variable, or `tieredllm keys set NAME`)"
        )

    def said(server: str, line: str) -> None:
        environment.warn(f"tieredllm: {server}: {line}")

    manager = FallbackManager(
        environment.profile_name,
        env=environment.env,
        places=environment.places,
        verbose=environment.verbose,
        sequences=SEQUENCES,
        said=said if environment.verbose else None,
    )
    gateway = Gateway(
        manager,
        host=host,
        keys=keys,
        max_requests=max_requests,
        strict_models=strict_models,
        require_llm=require_llm,
        report=environment.warn,
        tell=environment.warn if environment.verbose else None,
    )
    sock = listen(host, port)
    bound = sock.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host

    def begin() -> None:
        # What is loaded by now stays. Left out of what the collector looks through, full rounds
        # are cheap, and can be frequent: each connection of asyncio's is a ring (until 3.12, and
        # a broken one still), and a process that meets thousands would hold megabytes of them.
        gc.freeze()
        gc.set_threshold(700, 10, 2)
        environment.say(
            f"tieredllm: profile {manager.profile.name} on http://{shown}:{bound} "
            f"(OpenAI clients: http://{shown}:{bound}/v1)"
        )

    server = GatewayServer(gateway, grace_s=grace, on_start=begin)

    async def main() -> None:
        try:
            await server.serve(sockets=[sock])
        finally:
            await manager.aclose()

    run(main(), loop_factory=_fast_loop())
    raise typer.Exit(ExitCode.INTERRUPTED if server.interrupted else ExitCode.OK)


def _keys(names: list[str], environment: Environment) -> list[str]:
    """Return the keys of these names.

    Raises:
        UsageError: one is not set.
    """
    from tieredllm.errors import UsageError

    kept = environment.keys
    found = []
    for name in names:
        kept.check_name(name)
        value = kept.get(name)
        if value is None:
            raise UsageError(f"{name} is not set: export it, or `tieredllm keys set {name}`")
        found.append(value)
    return found


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return new_loop
