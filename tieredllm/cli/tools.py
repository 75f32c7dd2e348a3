"""Show and call the tools that models may use: the command `tools`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tieredllm.aio import run
from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import Json, make_app
from tieredllm.cli.output import print_json, print_table
from tieredllm.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tieredllm.profile.load import Loaded
    from tieredllm.profile.schema import Tier
    from tieredllm.tools.base import Tool
    from tieredllm.tools.registry import Toolbox
    from tieredllm.types import ToolResult

__all__ = ["app"]

Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Show what servers say on stderr, and to models."),
]
ABOUT_CHARACTERS = 120
"""How much of a description is listed."""

HEADINGS = ("tier", "tool", "effect", "about")

app = make_app("tools", no_args_is_help=True)

EXAMPLES = """Examples:

\b
  tieredllm tools call calculate '{"expression": "2**64 / 3"}'
  tieredllm tools call --approve-tools crm__close_ticket '{"id": 7}'
"""


@app.command("list")
def list_tools(
    *,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List what each tier may use, and what no tier may.

    Python functions are imported and MCP servers started for it. A tool that is not known to be
    read-only is run after you have approved it. Exit code 1: a server could not be started.
    """
    environment = current()
    environment.verbose |= verbose
    loaded = _loaded(environment)
    toolbox = _toolbox(loaded, environment)
    grants, instructions = run(_granted(toolbox, loaded.profile.tiers))
    if as_json:
        print_json([_described(tier, tools) for tier, tools in grants], environment)
    else:
        rows = [row for tier, tools in grants for row in _rows(tier, tools)]
        print_table(HEADINGS, rows, environment)
    if environment.verbose:
        for server, text in instructions.items():
            environment.say(f"{server} tells models ({len(text)} characters):\n{text}")
    for remark in toolbox.remarks:
        environment.say(f"tieredllm: {remark}")
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
    verbose: Verbose = False,
) -> None:
    """Call a tool as a model would, and print its result.

    A tool that is not known to be read-only needs your approval, at a terminal or by
    `--approve-tools`. Exit code 1: it was not approved, or gave an error, which is on stderr.
    """
    environment = current()
    environment.verbose |= verbose
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


@app.command("import")
def import_servers(
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="A file of `mcpServers`, such as .mcp.json."),
    ] = None,
) -> None:
    """Write another program's MCP servers as a profile has them.

    Secrets are replaced by the names of variables. Without FILE, say where there are such files.
    A profile can read the file itself, too: `tools: {mcp: {file: PATH}}`.
    """
    from pathlib import Path

    environment = current()
    if file is None:
        found = [path for path in _known_files() if path.is_file()]
        for path in found:
            print(path, file=environment.stdout)
        if not found:
            environment.warn("tieredllm: no program that is known has a file of MCP servers here")
            raise typer.Exit(ExitCode.FAILURE)
        return
    from tieredllm.profile.dump import write_yaml
    from tieredllm.profile.mcp_file import as_settings

    try:
        servers, secrets = as_settings(Path(file).expanduser())
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {(exc.strerror or str(exc)).lower()}") from exc
    print(write_yaml({"tools": {"mcp": servers}}).rstrip("\n"), file=environment.stdout)
    for name in secrets:
        environment.warn(f"tieredllm: keep its value with `tieredllm keys set {name}`")


@app.command()
def login(
    name: Annotated[str, typer.Argument(metavar="SERVER", help="The server's name.")],
) -> None:
    """Log in to a remote MCP server with a browser, and keep what it gives.

    Where the browser runs on another machine, paste the address that it ends at.
    """
    environment = current()
    toolbox = _toolbox(_loaded(environment), environment)
    number = run(_logged_in(toolbox, name, environment))
    environment.say(f"logged in to {name}: it has {number} tools")


@app.command()
def approvals(
    forget: Annotated[
        str | None,
        typer.Option("--forget", metavar="NAME", help="Forget a tool, a server, or `all`."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show what you have approved for good, or forget it."""
    from tieredllm.tools.approval import RememberedApprovals, names_of

    environment = current()
    kept = RememberedApprovals(environment.places.approvals_file)
    if forget is not None:
        number = kept.forget(None if forget == "all" else forget)
        if not number:
            raise UsageError(f"nothing called {forget} was approved for good")
        return
    rows = [tuple(names_of(entry)) for entry in kept.all()]
    if as_json:
        print_json([{"server": server, "tool": tool} for server, tool in rows], environment)
    else:
        print_table(
            ("server", "tool"), rows, environment, empty="nothing was approved for good yet"
        )


async def _logged_in(toolbox: Toolbox, name: str, environment: Environment) -> int:
    from tieredllm.aio import in_thread
    from tieredllm.tools.mcp.connection import UnavailableError

    async def show(address: str, take: Callable[[str], bool]) -> None:
        environment.warn(f"log in at {address}")
        await in_thread(lambda: _open_browser(address, environment))
        environment.warn("or paste here the address that a browser elsewhere ends at:")
        pasted.append(asyncio.create_task(_take_pasted(environment, take)))

    pasted: list[asyncio.Task[None]] = []
    try:
        return await toolbox.server(name).login(show)
    except UnavailableError as exc:
        raise UsageError(f"MCP server {name}: {exc}") from exc
    finally:
        for task in pasted:
            task.cancel()
        await toolbox.aclose()


def _open_browser(address: str, environment: Environment) -> None:
    """Open a browser that has a window; one in the terminal would take that from whoever pastes."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    # The module's class for lynx, w3m and the like, and for whatever $BROWSER names.
    if environment.env.get("BROWSER") or type(browser) is not webbrowser.GenericBrowser:
        browser.open(address)


async def _take_pasted(environment: Environment, take: Callable[[str], bool]) -> None:
    """Read lines of stdin until one is an address that answers."""
    from tieredllm.aio import in_thread

    stdin = environment.stdin
    while stdin is not None and (line := await in_thread(stdin.readline)):
        if take(line):
            return
        if line.strip():
            environment.warn("no login is in that: paste the whole address, with its `?code=…`")


def _known_files() -> list[Path]:
    """Return where programs keep their MCP servers: in the project, and for the user."""
    from pathlib import Path

    here = (".mcp.json", ".cursor/mcp.json", ".vscode/mcp.json", ".gemini/settings.json")
    home = (
        *(".claude.json", ".cursor/mcp.json", ".gemini/settings.json"),
        *(".codeium/windsurf/mcp_config.json", ".config/Claude/claude_desktop_config.json"),
        "Library/Application Support/Claude/claude_desktop_config.json",
    )
    return [*map(Path, here), *(Path.home() / path for path in home)]


def _loaded(environment: Environment) -> Loaded:
    from tieredllm.profile.load import find_profile, load

    return load(find_profile(environment.profile_name, environment.places), environment.places)


def _toolbox(loaded: Loaded, environment: Environment) -> Toolbox:
    from tieredllm.files import working_directory
    from tieredllm.tools.registry import Toolbox

    def said(server: str, line: str) -> None:
        environment.warn(f"{server}: {line}")

    return Toolbox(
        loaded.profile.tools,
        cwd=working_directory(),
        env=environment.env,
        lookup=environment.keys.get,
        folders=loaded.tool_folders,
        private=(environment.places.keys_file,),
        cache=environment.places.cache,
        state=environment.places.state,
        said=said if environment.verbose else None,
    )


Granted = list[tuple["Tier | None", tuple["Tool", ...]]]
"""Each tier's tools; at the end, without a tier, those that are granted to none."""


async def _granted(toolbox: Toolbox, tiers: tuple[Tier, ...]) -> tuple[Granted, dict[str, str]]:
    """Return each tier's tools, and what servers say of themselves."""
    from tieredllm.providers.base import WITH_TOOLS

    try:
        granted: Granted = [
            (
                tier,
                await toolbox.granted(tier.tools, fresh=True)
                if tier.provider in WITH_TOOLS
                else (),
            )
            for tier in tiers
        ]
        names = {tool.name for _, tools in granted for tool in tools}
        everything = await toolbox.granted("all", fresh=True)
        left = tuple(tool for tool in everything if tool.name not in names)
        instructions = toolbox.instructions(everything)
        return ([*granted, (None, left)] if left else granted), instructions
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
    from tieredllm.tools.execute import ToolSession
    from tieredllm.types import ToolCall

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


def _rows(tier: Tier | None, tools: tuple[Tool, ...]) -> list[tuple[str, str, str, str]]:
    name = "(no tier)" if tier is None else tier.name
    if not tools:
        return [(name, "-", "", "no tools")]
    return [(name, tool.name, _effect(tool), _first_line(tool)) for tool in tools]


def _effect(tool: Tool) -> str:
    if tool.read_only:
        return "read-only"
    words = {"always": "approved", "never": "never runs"}
    return words.get(tool.approve or "", "needs approval")


def _first_line(tool: Tool) -> str:
    """Return the first line of a description: of a long one, the sentences that have room."""
    from tieredllm.text import one_line

    line = one_line(tool.description.strip().partition("\n")[0])
    end = line.rfind(". ", 0, ABOUT_CHARACTERS) if len(line) > ABOUT_CHARACTERS else -1
    return line[: end + 1] if end > 0 else one_line(line, ABOUT_CHARACTERS)


def _described(tier: Tier | None, tools: tuple[Tool, ...]) -> dict[str, Any]:
    return {
        "tier": None if tier is None else tier.name,
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
