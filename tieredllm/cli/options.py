"""Define the options that several commands take, each in one place, and read them.

`RequestOptions` is what `ask` and `chat` share. A command takes all of it by `@takes_options`,
which builds the signature that Typer reads: no command repeats the list. A field whose name is one
of `types.Options` goes to the engine by itself (`RequestOptions.request`), so that one option
more is a field here, a field there, and what the engine does with it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Self, get_type_hints

import typer
from typer.core import TyperCommand, TyperOption

from tieredllm.cli import completion
from tieredllm.cli.environment import current
from tieredllm.cli.lazy_group import COMMANDS

if TYPE_CHECKING:
    from typer._click.core import Context
    from typer._click.formatting import HelpFormatter

    from tieredllm.cli.environment import Environment
    from tieredllm.client import FallbackManager
    from tieredllm.kinds import ErrorKind
    from tieredllm.prompts.stored import StoredPrompt
    from tieredllm.render.view import View
    from tieredllm.store.history import Conversation, History
    from tieredllm.tools.approval import Approver
    from tieredllm.types import Options

__all__ = [
    "PAIR",
    "GlobalOptions",
    "Json",
    "RequestCommand",
    "RequestOptions",
    "find_conversation",
    "finite",
    "make_app",
    "make_manager",
    "takes_options",
]

PAIR = "NAME VALUE"
"""What an option takes that has two words."""
MAX_DEADLINE_S = 86_400
"""The longest deadline that can be asked for: a day, as in a profile."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]


def make_app(name: str, **settings: Any) -> typer.Typer:
    """Return the Typer app of a command of the table, with the table's help.

    Args:
        name: the command's.
        settings: of a group: what else Typer is told.
    """
    return typer.Typer(
        name=name, help=COMMANDS[name], add_completion=False, rich_markup_mode=None, **settings
    )


def finite(value: float | None) -> float | None:
    """Return a number that `min` and `max` let in, if it is one: they let `nan` in.

    Raises:
        BadParameter: it is `nan` or `inf`.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number of days or seconds.")
    return value


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class GlobalOptions:
    """The options that every request's command takes before its name and after it."""

    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            "-p",
            metavar="NAME|PATH",
            autocompletion=completion.profiles,
            help="The tier profile to use (else TIEREDLLM_PROFILE, else `default`).",
        ),
    ] = None
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colour (NO_COLOR works too).")
    ] = False
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Tell every attempt, wait and skip on stderr."),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No remarks on stderr, only errors.")
    ] = False

    def apply(self) -> None:
        """Take them into the environment, adding to those given before the command."""
        environment = current()
        if self.profile is not None:
            environment.profile_name = self.profile
        environment.no_color = environment.no_color or self.no_color
        environment.verbose = environment.verbose or self.verbose
        environment.quiet = environment.quiet or self.quiet


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RequestOptions(GlobalOptions):
    """The options that `ask` and `chat` share."""

    system: Annotated[
        str | None, typer.Option("--system", "-s", help="A system prompt.", metavar="TEXT")
    ] = None
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[TIER=]MODEL",
            autocompletion=completion.models,
            help="Ask this model first, in the tier of -t or the first that fits; or another one "
            "in a tier (repeatable).",
        ),
    ] = None
    option: Annotated[
        list[Any] | None,
        typer.Option(
            "--option",
            "-o",
            metavar=PAIR,
            parser=str,
            autocompletion=completion.params,
            help="A parameter: temperature, max_tokens, top_p, stop, seed, reasoning_effort, ... "
            "(repeatable).",
        ),
    ] = None
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            "-T",
            metavar="NAME",
            autocompletion=completion.prompts,
            help="A stored prompt (`tieredllm prompts list`).",
        ),
    ] = None
    start: Annotated[
        str | None,
        typer.Option(
            "--tier",
            "-t",
            metavar="NAME",
            autocompletion=completion.tiers,
            help="Start at this tier.",
        ),
    ] = None
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Ask one tier's one model.")
    ] = False
    require_llm: Annotated[
        bool, typer.Option("--require-llm", help="Take a rule answer for a failure.")
    ] = False
    allow_rules: Annotated[
        bool, typer.Option("--allow-rules", help="Let a rule answer go into a pipe.")
    ] = False
    deadline_s: Annotated[
        float | None,
        typer.Option(
            "--deadline", metavar="SECONDS", help="The whole request, all tiers together."
        ),
    ] = None
    raw: Annotated[bool, typer.Option("--raw", "-r", help="Do not render Markdown.")] = False
    show_reasoning: Annotated[
        bool,
        typer.Option(
            "--show-reasoning",
            help="Show on the terminal what the model thinks; -v does, too.",
        ),
    ] = False
    file: Annotated[
        list[Any] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="PATH|URL",
            path_type=str,  # a URL has two slashes, and a `Path` one
            help="A text file to ask about, or a URL; `-` is stdin (repeatable).",
        ),
    ] = None
    attach: Annotated[
        list[str] | None,
        typer.Option(
            "--attach",
            "-a",
            metavar="FILE|URL",
            help="An image or a PDF to ask about; `-` is stdin (repeatable).",
        ),
    ] = None
    continue_last: Annotated[
        bool, typer.Option("--continue", "-c", help="Continue the latest conversation.")
    ] = False
    cid: Annotated[
        str | None,
        typer.Option(
            "--cid",
            metavar="ID|NAME",
            help="Continue the conversation of this name or id, or of a request of this id.",
            autocompletion=completion.conversations,
        ),
    ] = None
    usage: Annotated[
        bool, typer.Option("--usage", "-u", help="Print tokens and time on stderr.")
    ] = False
    no_log: Annotated[bool, typer.Option("--no-log", "-n", help="Keep no record of this.")] = False
    approve_tools: Annotated[
        bool,
        typer.Option(
            "--approve-tools", help="Let models call tools that may change something, unasked."
        ),
    ] = False
    simulate: Annotated[
        list[str] | None,
        typer.Option(
            "--simulate",
            metavar="TIER=FAULT",
            autocompletion=completion.faults,
            help="Play a fault instead of calling a tier, such as primary=rate_limit "
            "(repeatable); health learns from it as from a real one.",
        ),
    ] = None

    @property
    def conversation(self) -> str | None:
        """The conversation to continue: its id, `""` for the latest, None for a new one."""
        return self.cid if self.cid is not None else "" if self.continue_last else None

    def with_switch(self, environment: Environment) -> Self:
        """Return these options with `log off` minded."""
        from tieredllm.store.switch import LogSwitch

        is_off = not self.no_log and LogSwitch(environment.places).is_off
        return replace(self, no_log=True) if is_off else self

    def with_stored(self, stored: StoredPrompt) -> Self:
        """Return these options over those of a stored prompt."""
        from tieredllm.profile.params import written_params

        own = list(self.option or [])
        named = {name for name, _ in own}
        usual = [pair for pair in written_params(stored.options) if pair[0] not in named]
        return replace(
            self,
            system=stored.system if self.system is None else self.system,
            start=stored.tier if self.start is None else self.start,
            model=self.model or ([stored.model] if stored.model else None),
            option=[*usual, *own],
        )

    def request(self) -> Options:
        """Return what the engine is told of them: the fields of the same name."""
        from tieredllm.types import Options

        return Options(**self._request_fields(Options.__struct_fields__))

    def _request_fields(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return those whose names the engine knows, and what is said the other way round."""
        shared = {name: getattr(self, name) for name in names if hasattr(self, name)}
        if self.option:
            from tieredllm.profile.params import read_params

            shared["params"] = read_params(self.option)
        wants_llm = None if not self.allow_rules else False
        return shared | {
            "fallback": not self.no_fallback,
            "require_llm": self.require_llm or wants_llm,
        }

    def check(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            UsageError: `--deadline` is out of range, a conversation is named twice, or two options
                exclude each other.
        """
        from tieredllm.errors import UsageError

        if self.deadline_s is not None and not 0 < self.deadline_s <= MAX_DEADLINE_S:
            raise UsageError(
                f"--deadline must be above 0 and at most {MAX_DEADLINE_S} seconds, "
                f"not {self.deadline_s:g}"
            )
        if self.require_llm and self.allow_rules:
            raise UsageError("--require-llm and --allow-rules exclude each other")
        self.request()  # what is wrong with a parameter is said first
        if self.cid is not None and self.continue_last:
            raise UsageError("--cid and --continue exclude each other")
        if self.cid == "":
            raise UsageError("--cid takes an id or a name; --continue goes on with the latest")


def takes_options(
    shared: type[Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take every field of a class of options.

    They come as one argument called `options`, if the command has one; its other parameters are its
    own. What Typer reads is the signature alone, so it gets one with an option for each field. The
    global options are in the environment before the command runs.

    Args:
        shared: a dataclass, whose fields are annotated as Typer's parameters are.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(shared, include_extras=True)
        options = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in fields(shared)
        ]
        signature = inspect.signature(command, eval_str=True)
        takes_them = "options" in signature.parameters
        own = [each for each in signature.parameters.values() if each.name != "options"]

        def run(**given: Any) -> None:
            mine = {each.name: given.pop(each.name) for each in own}
            found = shared(**given)
            if isinstance(found, GlobalOptions):
                found.apply()
            command(**mine, **({"options": found} if takes_them else {}))

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return run

    return decorate


class RequestCommand(TyperCommand):
    """A command of many options: its help has the examples before them.

    It has options that take a name and a value, for which Typer has no type.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            if isinstance(param, TyperOption) and param.metavar == PAIR:
                param.nargs = 2

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the usage, what it does, examples, and then the options."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_epilog(ctx, formatter)
        self.format_options(ctx, formatter)


def make_manager(
    environment: Environment,
    options: RequestOptions,
    approver: Approver | None,
    view: Callable[[], View | None],
    *,
    one_question: bool = False,
) -> FallbackManager:
    """Make the manager for the profile in use.

    Args:
        environment: the surroundings.
        options: what the command was told.
        approver: asks about tools that may change something; None where nobody can be asked.
        view: gives what shows a request, or has last shown one: where `-v` shows what MCP servers
            say on stderr.
        one_question: whether one question is all there will be.

    Raises:
        UsageError: the profile, a tier's name or a fault's name is wrong.
    """
    from tieredllm.client import FallbackManager
    from tieredllm.types import Notice

    def said(server: str, line: str) -> None:
        shown = view()
        if shown is not None:
            shown.handle(Notice(tier=server, message=line))  # shown as what a tier says

    models, model = _models(options.model or [])
    return FallbackManager(
        environment.profile_name,
        env=environment.env,
        places=environment.places,
        models=models,
        model=model,
        start=options.start,
        simulate=_faults(options.simulate or []),
        verbose=environment.verbose,
        one_question=one_question,
        keep_contexts=not options.no_log,
        approve_tools=options.approve_tools,
        approver=approver,
        said=said if environment.verbose else None,
    )


def _models(given: list[str]) -> tuple[dict[str, str], str | None]:
    """Read `-m`: the models of tiers that are named, and the one that is to be asked first.

    Raises:
        UsageError: two are to be asked first, or one has no name.
    """
    from tieredllm.errors import UsageError
    from tieredllm.profile.choose import split_model

    firsts = [text for text in given if split_model(text)[0] is None]
    if len(firsts) > 1:
        raise UsageError(f"--model: {' and '.join(firsts)} cannot both be asked first")
    if not all(given):
        raise UsageError("--model takes a model: [TIER=]MODEL")
    others = [text for text in given if text not in firsts]
    return _pairs(others, "--model", "[TIER=]MODEL"), next(iter(firsts), None)


def _pairs(given: list[str], option: str, shape: str) -> dict[str, str]:
    """Read `NAME=VALUE` options.

    Args:
        given: what was given, once for each time the option was.
        option: its name, for the message.
        shape: what it takes, for the message.

    Raises:
        UsageError: one has not that shape.
    """
    from tieredllm.errors import UsageError

    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} takes {shape}, not {text!r}")
        found[name] = value
    return found


def _faults(given: list[str]) -> dict[str, ErrorKind]:
    """Read the faults to play.

    Raises:
        UsageError: there is no such fault.
    """
    from tieredllm.errors import UsageError
    from tieredllm.kinds import ErrorKind

    faults: dict[str, ErrorKind] = {}
    for tier, name in _pairs(given, "--simulate", "TIER=FAULT").items():
        try:
            faults[tier] = ErrorKind(name)
        except ValueError:
            raise UsageError(
                f"--simulate: no fault {name!r}: there are {', '.join(ErrorKind)}"
            ) from None
    return faults


def find_conversation(history: History | None, conversation: str | None) -> Conversation | None:
    """Return the conversation to continue.

    Args:
        history: the log; None where nothing is kept or continued.
        conversation: its name or id, `""` for the latest, None for a new one.

    Raises:
        UsageError: there is none of that name or id, or none at all.
    """
    if history is None or conversation is None:
        return None
    earlier = history.conversation(conversation or None)
    if earlier is None:
        from tieredllm.errors import UsageError

        which = f"no conversation {conversation!r}" if conversation else "no conversation"
        raise UsageError(f"{which} to continue is in the log (see `tieredllm log`)")
    return earlier
