"""`tieredllm chat`: talk with the tiers, turn by turn."""

from __future__ import annotations

import typer

from tieredllm.cli.context import current
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
  tieredllm chat
  tieredllm chat -c
  tieredllm chat -s "answer in French" -f notes.txt
  echo "why is the sky blue?" | tieredllm chat
"""


@app.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
def chat(
    *,
    system: System = None,
    model: Models = None,
    tier: StartTier = None,
    no_fallback: NoFallback = False,
    require_llm: RequireLlm = False,
    deadline: Deadline = None,
    raw: Raw = False,
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
    """Talk with the tiers, turn by turn.

    The conversation goes on whichever tier answers. Type /help in it for the commands and keys;
    Ctrl-C stops an answer, Ctrl-D leaves. Files are attached to the first message. Without a
    terminal each line of stdin is a question: the answers go to stdout, everything else to stderr.
    Exit code then: 0, every answer was complete; 1, one was not.
    """
    from tieredllm.cli.chatting import ChatJob, perform
    from tieredllm.cli.intake import read_files
    from tieredllm.cli.request_options import check_common, pairs

    apply(profile=profile, no_color=no_color, verbose=verbose, quiet=quiet)
    session = current()
    check_common(deadline=deadline, cid=cid, last=continue_last)
    code = perform(
        session,
        ChatJob(
            system=system,
            models=pairs(model or [], "--model", "TIER=MODEL"),
            tier=tier,
            fallback=not no_fallback,
            require_llm=require_llm,
            deadline_s=deadline,
            raw=raw,
            attachments=read_files(session, file or []),
            conversation=cid if cid is not None else ("" if continue_last else None),
            usage=usage,
            log=not no_log,
            approve_tools=approve_tools,
            faults=pairs(simulate or [], "--simulate", "TIER=FAULT"),
        ),
    )
    raise typer.Exit(code)
