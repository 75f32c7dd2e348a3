"""`tieredllm ask`: one question, one answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode, code_of
from tieredllm.cli.options import (
    PAIR,
    RequestCommand,
    RequestOptions,
    find_conversation,
    make_app,
    make_manager,
    takes_options,
)

if TYPE_CHECKING:
    from typer._click.core import Context

    from tieredllm.client import FallbackManager
    from tieredllm.kinds import ErrorKind
    from tieredllm.prompts.stored import StoredPrompt
    from tieredllm.types import Answer, Prompt

__all__ = ["app"]

app = make_app("ask")

EXAMPLES = """Examples:

\b
  tieredllm ask "why is the sky blue?"
  git diff | tieredllm ask "write a commit message for this"
  tieredllm ask -x "a bash loop over all .txt files" > loop.sh
  tieredllm ask -f report.txt "what does this conclude?" --json | jq -r .tier
  tieredllm ask -c "and at sunset?"
  tieredllm ask -s "you are a strict reviewer" "review: {input}" --save review
  tieredllm ask --schema "name, age int" "invent a dog" | jq .name
  git diff | tieredllm -T review -o temperature 0
"""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class AskOptions(RequestOptions):
    """The options of `ask`."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, also on failure.")
    ] = False
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Print the answer when it is complete.")
    ] = False
    stream_always: Annotated[
        bool, typer.Option("--stream", help="Print it as it comes, even into a pipe.")
    ] = False
    extract: Annotated[
        bool, typer.Option("--extract", "-x", help="Print only the first fenced code block.")
    ] = False

    shape: Annotated[
        str | None,
        typer.Option(
            "--schema",
            metavar="FILE|JSON|FIELDS",
            help="Print JSON that fits this JSON Schema, or fields such as 'name, age int'.",
        ),
    ] = None
    variable: Annotated[
        list[Any] | None,
        typer.Option(
            "--var",
            metavar=PAIR,
            parser=str,
            help="A variable of the stored prompt (repeatable).",
        ),
    ] = None
    save_as: Annotated[
        str | None,
        typer.Option(
            "--save",
            metavar="NAME",
            help="Keep -s, the question as a template ({input}, {names}), -o, -m and -t "
            "under a name, for -T; nothing is asked.",
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what each tier would be sent; ask nothing.")
    ] = False
    no_stdin: Annotated[
        bool,
        typer.Option(
            "--no-stdin",
            help="Leave stdin alone: in a `while read` loop it is the loop's own.",
        ),
    ] = False

    def check(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            UsageError: see `RequestOptions.check`; or two options exclude each other.
        """
        from tieredllm.errors import UsageError

        super().check()
        if self.variable and self.template is None:
            raise UsageError("--var fills in a stored prompt: name it with -T")
        if self.shape is not None and (self.extract or self.stream_always):
            raise UsageError(
                "--schema prints whole JSON: neither --extract nor --stream goes with it"
            )
        if self.stream_always and self.no_stream:
            raise UsageError("--stream and --no-stream exclude each other")

    def _request_fields(self, names: tuple[str, ...]) -> dict[str, Any]:
        fields = super()._request_fields(names) | {"stream": False if self.no_stream else None}
        if self.shape is not None:
            from tieredllm.cli.schema_input import read_schema

            fields["schema"] = read_schema(self.shape)
        return fields


class AskCommand(RequestCommand):
    """`ask`, which tells in JSON, too, that its command line is wrong."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse the command line, with `--json` among its words or not."""
        wants_json = "--json" in args[: args.index("--") if "--" in args else None]
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as exc:
            if wants_json:
                from tieredllm.kinds import ErrorKind

                message = exc.format_message().rstrip(".")
                _print_unasked(current(), ErrorKind.BAD_REQUEST, message)
            raise


@app.command(cls=AskCommand, epilog=EXAMPLES)
@takes_options(AskOptions)
def ask(
    ctx: typer.Context,
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT]...",
            help="The question. Piped text is put before it; `-` means the question is stdin.",
            show_default=False,
        ),
    ] = None,
    *,
    options: AskOptions,
) -> None:
    """Ask one question and print one answer.

    The tiers of the profile are tried in order until one answers completely. The answer goes to
    stdout, everything else to stderr; an answer by rules goes into a pipe with --allow-rules only.
    Exit code 0: a model's whole answer; 3: one that was cut, or by rules; 1: none; 2: wrong usage.
    """
    environment = current()
    with _told_as_json(environment, options):
        _ask(ctx, environment, prompt or [], options)


def _ask(
    ctx: typer.Context, environment: Environment, words: list[str], options: AskOptions
) -> NoReturn:
    """Do what `ask` was told, and end with its exit code.

    Raises:
        TieredLLMError: it cannot be done.
    """
    options.check()
    options = options.with_switch(environment)
    if options.save_as is not None:
        _save(environment, words, options)
        raise typer.Exit(ExitCode.OK)
    stored = _stored(environment, options)
    if stored is not None:
        options = options.with_stored(stored)
    is_whole = stored is not None and not stored.wants_input
    has_any = words or options.file or options.attach or is_whole
    if not has_any and (options.no_stdin or not environment.is_piped_into):
        print(ctx.get_help(), file=environment.stderr)
        raise typer.Exit(ExitCode.USAGE)
    raise typer.Exit(_answer(environment, words, options, stored))


@contextmanager
def _told_as_json(environment: Environment, options: AskOptions) -> Iterator[None]:
    """Let `--json` print its object also where nothing could be asked."""
    from tieredllm.errors import TieredLLMError, UsageError

    try:
        yield
    except TieredLLMError as exc:  # before anything was asked, and printed
        if options.as_json and not options.dry_run:
            from tieredllm.kinds import ErrorKind

            is_usage = isinstance(exc, UsageError)  # else the input did not come in time
            kind = ErrorKind.BAD_REQUEST if is_usage else ErrorKind.DEADLINE
            _print_unasked(environment, kind, str(exc))
        raise


def _print_unasked(environment: Environment, kind: ErrorKind, message: str) -> None:
    """Print the JSON object of a request that was never made."""
    from tieredllm.kinds import ErrorInfo
    from tieredllm.types import Answer

    failed = Answer(request_id="", latency_ms=0.0, error=ErrorInfo(kind=kind, message=message))
    print(_as_json(failed, environment.stdout), file=environment.stdout, flush=True)


def _stored(environment: Environment, options: AskOptions) -> StoredPrompt | None:
    if options.template is None:
        return None
    from tieredllm.prompts.stored import StoredPrompts

    return StoredPrompts(environment.places).find(options.template)


def _save(environment: Environment, words: list[str], options: AskOptions) -> None:
    """Keep what was given as a stored prompt.

    Raises:
        UsageError: nothing was given, or what is not kept, or the name is none.
    """
    from tieredllm.errors import UsageError
    from tieredllm.profile.params import read_params
    from tieredllm.prompts.stored import StoredPrompt, StoredPrompts

    if len(options.model or []) > 1:
        raise UsageError("--save keeps one model: give one -m")
    others = {
        "-f": options.file,
        "-a": options.attach,
        "--schema": options.shape,
        "-x": options.extract,
        "-T": options.template,
    }
    unkept = [name for name, given in others.items() if given]
    if unkept:
        raise UsageError(f"--save keeps no {' and no '.join(unkept)}: give that when you ask")
    prompt = StoredPrompt(
        system=options.system,
        prompt=" ".join(words) or None,
        options=read_params(options.option or []),
        tier=options.start,
        model=next(iter(options.model or []), None),
    )
    if prompt == StoredPrompt():
        raise UsageError("--save: there is nothing to keep: give a prompt, -s, -o, -m or -t")
    name = options.save_as or ""
    path = StoredPrompts(environment.places).save(name, prompt)
    environment.say(f"kept as {path}: `tieredllm ask -T {name} ...`")


def _prompt(
    environment: Environment,
    words: list[str],
    options: AskOptions,
    stored: StoredPrompt | None,
    usual_s: float,
) -> Prompt:
    """Read what is asked: the words, stdin, files, images, a stored prompt around it.

    Args:
        environment: the streams.
        words: the question's words.
        options: what the command was told.
        stored: the stored prompt.
        usual_s: how long stdin is waited for without a deadline.

    Raises:
        UsageError: stdin or a file is wrong, or there is nothing to ask.
    """
    import msgspec

    from tieredllm.cli.prompt_input import (
        Patience,
        check_stdin,
        question_and_attachments,
        read_media,
    )
    from tieredllm.errors import UsageError
    from tieredllm.types import Prompt

    patience = Patience.within(options.deadline_s, usual_s)
    files, attach = options.file or [], options.attach or []
    check_stdin(words, files, attach, may_read=not options.no_stdin)
    parts = read_media(environment, attach, patience=patience)
    question, attachments = question_and_attachments(
        environment,
        words,
        files,
        patience=patience,
        read_stdin=not options.no_stdin and "-" not in attach,
    )
    prompt = Prompt(question=question, attachments=attachments, parts=parts)
    if prompt.is_empty and (stored is None or stored.wants_input):
        raise UsageError("nothing to ask: give a question, a file, or text on stdin")
    if stored is None:
        return prompt
    question = stored.question(question, dict(options.variable or []))
    return msgspec.structs.replace(prompt, question=question)


def _answer(
    environment: Environment,
    words: list[str],
    options: AskOptions,
    stored: StoredPrompt | None,
) -> int:
    """Ask, print the answer, keep it, and return the exit code.

    Raises:
        UsageError: the profile, a tier's name, a fault's name, a conversation, stdin or a file is
            wrong, or there is nothing to ask.
    """
    import msgspec

    from tieredllm.aio import run
    from tieredllm.cli.approval import beside, terminal_approver
    from tieredllm.cli.output import make_view, move_on_key
    from tieredllm.engine.ports import Controls
    from tieredllm.render.view import show

    controls = Controls()
    view, animated = make_view(
        environment,
        raw=options.raw,
        stream=options.stream_always,
        no_stream=options.no_stream,
        printed_later=options.as_json or options.extract or options.shape is not None,
        allow_rules=options.allow_rules,
        reasoning=options.show_reasoning,
        key=move_on_key(environment, controls, keeps_typed=False),
    )
    manager = make_manager(
        environment,
        options,
        beside(view, terminal_approver(environment)),
        lambda: view,
        one_question=True,
    )
    history = None
    if not options.no_log or options.conversation is not None:
        from tieredllm.store.history import History

        limits = manager.profile.log
        history = History(manager.database, keep=limits.keep, max_mb=limits.max_mb)
    earlier = find_conversation(history, options.conversation)
    started = time.monotonic()
    prompt = _prompt(environment, words, options, stored, manager.profile.deadline_s)
    request = options.request()
    if request.deadline_s is not None:  # what was waited for counts
        left_s = max(request.deadline_s - (time.monotonic() - started), 0.001)
        request = msgspec.structs.replace(request, deadline_s=left_s)
    prompt = msgspec.structs.replace(
        prompt,
        # Only what was given: the profile's own is another when the profile was edited meanwhile.
        system=options.system if options.system is not None else earlier and earlier.system,
        history=earlier.messages if earlier else (),
    )

    async def answered() -> int:
        try:
            if options.dry_run:
                from tieredllm.cli.dry_run import print_previews

                previews = await manager.preview(prompt, options=request)
                print_previews(previews, environment, as_json=options.as_json)
                return ExitCode.OK
            events = manager.stream(prompt, options=request, controls=controls)
            answer = await show(events, view, animated=animated)
            code = _finish(environment, options, answer, manager)
            if getattr(view, "is_broken", False) and code == ExitCode.OK:
                environment.warn("tieredllm: stdout holds more than one answer's text: --stream")
                code = ExitCode.FAILURE
            if answer.fallback_used or answer.error is not None:
                for mistake in manager.key_mistakes():
                    environment.say(str(mistake))
            if history is not None and not options.no_log:
                history.save(
                    prompt,
                    answer,
                    profile=manager.profile.name,
                    conversation_id=earlier.cid if earlier else None,
                    secrets=manager.secrets(),
                    reusable=request.schema is None,
                    usual_system=manager.profile.system,
                )
                # Without -v only where the next question would go on from another turn.
                if history.unsaved is not None and (environment.verbose or earlier is not None):
                    environment.say(f"tieredllm: this is not in the log: {history.unsaved}")
            return code
        finally:
            await manager.aclose()

    try:
        return run(answered())
    finally:
        view.close()


def _setup(manager: FallbackManager, answer: Answer) -> list[str]:
    """Return what is to be set up, where no language model is."""
    from tieredllm.render.summary import setup_lines, unconfigured_models

    models = unconfigured_models(answer)
    gaps = [manager.plans[it.level].backends[it.alternate].missing() for it in models]
    lacking = [gap for gap in gaps if gap is not None]
    return setup_lines(lacking) if lacking else []


def _finish(
    environment: Environment, options: AskOptions, answer: Answer, manager: FallbackManager
) -> int:
    """Print what comes after the answer, and judge it."""
    from tieredllm.render.summary import failure_lines, summary_line, usage_line

    code = code_of(answer)
    setup = _setup(manager, answer)
    summary = summary_line(answer, plans=manager.plans)
    remarks = setup or ([] if summary is None else [summary])
    if options.as_json:
        print(_as_json(answer, environment.stdout), file=environment.stdout, flush=True)
        for line in remarks:
            environment.say(line)
        return code
    if answer.error is not None:
        for line in failure_lines(answer):
            environment.warn(line)
        for line in setup:
            environment.say(line)
        return code
    if options.extract:
        code = _extract(environment, answer)
    elif options.shape is not None:
        environment.print(answer.text or "")
    for line in remarks:
        environment.say(line)
    if options.usage:
        environment.warn(usage_line(answer))
    return code


def _as_json(answer: Answer, stream: TextIO) -> str:
    """Encode an answer; what the stream's encoding lacks is escaped, so that nothing is lost."""
    import msgspec

    from tieredllm.text import escape_json

    text = escape_json(msgspec.json.encode(answer).decode())
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        import json

        text = json.dumps(json.loads(text))
    return text


def _extract(environment: Environment, answer: Answer) -> ExitCode:
    """Print the first code block, if it is whole; half a script must not run."""
    from tieredllm.render.extract import first_code_block

    text = answer.text or ""
    block = first_code_block(text)
    if block is None or not block.is_closed:
        lacking = "has no code block to extract"
        if block is not None:
            lacking = "ends before its code block does: nothing is extracted"
        environment.warn(
            f"{_shown(text.rstrip(), environment.stderr)}\ntieredllm: the answer above {lacking}"
        )
        return ExitCode.FAILURE
    code = _shown(block.code, environment.stdout)
    environment.stdout.write(code if code.endswith("\n") else f"{code}\n")
    environment.stdout.flush()
    return code_of(answer)


def _shown(text: str, stream: TextIO) -> str:
    """Clean a text that goes to a terminal; for anything else it stays as it is."""
    if not stream.isatty():
        return text
    from tieredllm.text import clean

    return clean(text)
