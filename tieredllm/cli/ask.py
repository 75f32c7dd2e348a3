"""`tieredllm ask`: one question, one answer."""

from __future__ import annotations

from typing import Annotated

import typer

from tieredllm.cli.context import Session, current
from tieredllm.cli.exits import ExitCode
from tieredllm.cli.options import (
    ApproveTools,
    Cid,
    ContinueLast,
    Deadline,
    Files,
    Models,
    NoColor,
    NoFallback,
    NoLog,
    Profile,
    Quiet,
    Raw,
    RequireLlm,
    Simulate,
    StartTier,
    System,
    Usage,
    Verbose,
    apply,
)

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

EXAMPLES = """Examples:

\b
  tieredllm ask "why is the sky blue?"
  git diff | tieredllm ask "write a commit message for this"
  tieredllm ask -x "a Python one-liner that reverses a file's lines" > reverse.py
  tieredllm ask -f report.txt "what does this conclude?" --json | jq -r .tier
  tieredllm ask -c "and at sunset?"
"""


@app.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
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
    system: System = None,
    model: Models = None,
    tier: StartTier = None,
    no_fallback: NoFallback = False,
    require_llm: RequireLlm = False,
    deadline: Deadline = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, also on failure.")
    ] = False,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Print the answer when it is complete.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print it as it comes, even into a pipe.")
    ] = False,
    raw: Raw = False,
    extract: Annotated[
        bool, typer.Option("--extract", "-x", help="Print only the first fenced code block.")
    ] = False,
    file: Files = None,
    continue_last: ContinueLast = False,
    cid: Cid = None,
    usage: Usage = False,
    no_log: NoLog = False,
    approve_tools: ApproveTools = False,
    simulate: Simulate = None,
    profile: Profile = None,
    no_color: NoColor = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Ask one question and print one answer.

    The tiers of the profile are tried in order until one answers completely. The answer goes to
    stdout, everything else to stderr. Exit code 0: a complete answer; 1: none; 2: wrong usage.
    """
    from tieredllm.cli.asking import AskJob, perform
    from tieredllm.cli.intake import question_and_attachments
    from tieredllm.cli.request_options import pairs
    from tieredllm.errors import UsageError

    apply(profile=profile, no_color=no_color, verbose=verbose, quiet=quiet)
    session = current()
    words, files = prompt or [], file or []
    if not words and not files and _is_interactive(session):
        print(ctx.get_help(), file=session.stderr)
        raise typer.Exit(ExitCode.USAGE)
    _check(deadline=deadline, stream=stream, no_stream=no_stream, cid=cid, last=continue_last)
    question, attachments = question_and_attachments(session, words, files)
    if not question.strip() and not any(part.text.strip() for part in attachments):
        reason = "nothing to ask: give a question, a file, or text on stdin"
        raise UsageError(reason)
    code = perform(
        session,
        AskJob(
            question=question,
            attachments=attachments,
            system=system,
            models=pairs(model or [], "--model", "TIER=MODEL"),
            tier=tier,
            fallback=not no_fallback,
            require_llm=require_llm,
            deadline_s=deadline,
            as_json=as_json,
            stream=stream,
            no_stream=no_stream,
            raw=raw,
            extract=extract,
            conversation=cid if cid is not None else ("" if continue_last else None),
            usage=usage,
            log=not no_log,
            approve_tools=approve_tools,
            faults=pairs(simulate or [], "--simulate", "TIER=FAULT"),
        ),
    )
    raise typer.Exit(code)


def _is_interactive(session: Session) -> bool:
    return session.stdin is None or session.stdin.closed or session.stdin.isatty()


def _check(
    *, deadline: float | None, stream: bool, no_stream: bool, cid: str | None, last: bool
) -> None:
    from tieredllm.cli.request_options import check_common
    from tieredllm.errors import UsageError

    check_common(deadline=deadline, cid=cid, last=last)
    if stream and no_stream:
        reason = "--stream and --no-stream exclude each other"
        raise UsageError(reason)
