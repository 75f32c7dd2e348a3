"""Show and call the tools that models may use: the command `tools`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tieredllm.aio import run
from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.output import print_json, print_table
from tieredllm.errors import UsageError

if TYPE_CHECKING:
    from tieredllm.profile.load import Loaded
    from tieredllm.profile.schema import Tier
    from tieredllm.tools.base import Tool, ToolResult
    from tieredllm.tools.registry import Toolbox

__all__ = ["app"]

HEADINGS = ("tier", "tool", "effect", "about")

app = typer.Typer(
    name="tools",
    help="Show and call the tools that models may use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

EXAMPLES = """Examples:

\b
  tieredllm tools call calculate '{"expression": "2**64 / 3"}'
  tieredllm tools call --approve-tools crm__close_ticket '{"id": 7}'
"""


@app.command("list")
def list_tools(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List what each tier may use.

    Python functions are imported and MCP servers started for it. A tool that is not known to be
    read-only is run after you have approved it. Exit code 1: a server could not be started.
    """
    environment = current()
    loaded = _loaded(environment)
    toolbox = _toolbox(loaded, environment)
    grants = run(_granted(toolbox, loaded.profile.tiers))
    if as_json:
        print_json([_described(tier, tools) for tier, tools in grants], environment)
    else:
        rows = [row for tier, tools in grants for row in _rows(tier, tools)]
        print_table(HEADINGS, rows, environment)
    for trouble in toolbox.troubles:
        environment.warn(f"tieredllm: {trouble}")
    raise typer.Exit(ExitCode.FAILURE if toolbox.troubles else ExitCode.OK)


@app.command(epilog=EXAMPLES)
def call(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The tool's name.")],
    arguments: Annotated[
        str, typer.Argument(metavar="JSON", help="Its arguments, as a JSON object.")
    ] = "{}",
    *,
    approve_tools: Annotated[
        bool,
        typer.Option("--approve-tools", help="Run it even if it may change something."),
    ] = False,
) -> None:
    """Call a tool as a model would, and print its result.

    A tool that is not known to be read-only needs your approval, at a terminal or by
    `--approve-tools`. Exit code 1: it was not approved, or gave an error, which is on stderr.
    """
    environment = current()
    loaded = _loaded(environment)
    toolbox = _toolbox(loaded, environment)
    result = run(
        _called(
            toolbox, loaded, environment, name=name, arguments=arguments, approved=approve_tools
        )
    )
    if result.outcome == "invalid":
        raise UsageError(f"{name}: {result.text}")
    if result.is_error:
        environment.warn(f"tieredllm: {name}: {result.text}")
        raise typer.Exit(ExitCode.FAILURE)
    environment.print(result.text.rstrip("\n"))


def _loaded(environment: Environment) -> Loaded:
    from tieredllm.profile.load import find_profile, load

    return load(find_profile(environment.profile_name, environment.places), environment.places)


def _toolbox(loaded: Loaded, environment: Environment) -> Toolbox:
    from tieredllm.files import working_directory
    from tieredllm.keys import Keys
    from tieredllm.tools.registry import Toolbox

    keys_file = environment.places.keys_file
    return Toolbox(
        loaded.profile.tools,
        cwd=working_directory(),
        env=environment.env,
        lookup=Keys(environment.env, keys_file).get,
        folders=loaded.tool_folders,
        private=(keys_file,),
        cache=environment.places.cache,
        state=environment.places.state,
    )


async def _granted(
    toolbox: Toolbox, tiers: tuple[Tier, ...]
) -> list[tuple[Tier, tuple[Tool, ...]]]:
    from tieredllm.providers.base import WITH_TOOLS

    try:
        return [
            (
                tier,
                await toolbox.granted(tier.tools, fresh=True)
                if tier.provider in WITH_TOOLS
                else (),
            )
            for tier in tiers
        ]
    finally:
        await toolbox.aclose()


async def _called(
    toolbox: Toolbox,
    loaded: Loaded,
    environment: Environment,
    *,
    name: str,
    arguments: str,
    approved: bool,
) -> ToolResult:
    from tieredllm.cli.approval import terminal_approver
    from tieredllm.tools.approval import Approval, RememberedApprovals
    from tieredllm.tools.base import ToolCall
    from tieredllm.tools.execute import ToolSession

    profile = loaded.profile
    approval = Approval(
        profile.tools.approve,
        ask=terminal_approver(environment),
        approved=approved,
        send_to=profile.tools.send_to,
        remembered=RememberedApprovals(environment.places.approvals_file),
    )
    tools = ToolSession(toolbox, approval=approval, max_rounds=1)
    deadline = asyncio.get_running_loop().time() + profile.deadline_s
    try:
        if await toolbox.find(name, deadline=deadline) is None:
            raise UsageError(_unknown(name, toolbox))
        wanted = ToolCall(id="1", name=name, arguments=arguments)
        return (await tools.execute_round([wanted], (name,), tier="", deadline=deadline))[0]
    finally:
        await toolbox.aclose()


def _unknown(name: str, toolbox: Toolbox) -> str:
    if toolbox.troubles:
        return toolbox.troubles[-1]
    return f"there is no tool `{name}`: `tieredllm tools list` shows those of each tier"


def _rows(tier: Tier, tools: tuple[Tool, ...]) -> list[tuple[str, str, str, str]]:
    if not tools:
        return [(tier.name, "-", "", "no tools")]
    return [(tier.name, tool.name, _effect(tool), _first_line(tool)) for tool in tools]


def _effect(tool: Tool) -> str:
    return "read-only" if tool.read_only else "needs approval"


def _first_line(tool: Tool) -> str:
    from tieredllm.text import one_line

    return one_line(tool.description.strip().partition("\n")[0], 120)


def _described(tier: Tier, tools: tuple[Tool, ...]) -> dict[str, Any]:
    return {
        "tier": tier.name,
        "tools": [
            {
                "name": tool.name,
                "origin": tool.origin,
                "read_only": tool.read_only,
                "description": tool.description,
                "parameters": tool.parameters,
            }
            for tool in tools
        ],
    }
