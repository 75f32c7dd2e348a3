"""Carry out `ask`: run the request, show it, keep it, and say with which code it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TextIO

import msgspec

from tieredllm.aio import run
from tieredllm.cli.approval import beside, terminal_approver
from tieredllm.cli.context import Session
from tieredllm.cli.exits import ExitCode
from tieredllm.cli.request_options import earlier_turns, manager_for
from tieredllm.cli.views import make_view
from tieredllm.client import FallbackManager
from tieredllm.render.showing import show
from tieredllm.render.summary import failure_lines, summary_line, usage_line
from tieredllm.types import Answer, Attachment, Event, Options, Prompt

__all__ = ["AskJob", "perform"]


class AskJob(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what one `ask` was told on its command line."""

    question: str
    attachments: tuple[Attachment, ...]
    system: str | None
    models: dict[str, str]
    """Another model for a tier, by tier name."""
    tier: str | None
    fallback: bool
    require_llm: bool
    deadline_s: float | None
    as_json: bool
    stream: bool
    no_stream: bool
    raw: bool
    extract: bool
    conversation: str | None
    """The conversation to continue: its id, `""` for the latest, None for a new one."""
    usage: bool
    log: bool
    approve_tools: bool
    """Whether tools that may change something run without a question."""
    faults: dict[str, str]
    """The faults to play, by tier name."""


def perform(session: Session, job: AskJob) -> int:
    """Ask, print the answer, and give the exit code.

    Raises:
        UsageError: the profile, a tier's name, a fault's name or a conversation is wrong.
    """
    view, animated = make_view(
        session,
        raw=job.raw,
        stream=job.stream,
        no_stream=job.no_stream,
        printed_later=job.as_json or job.extract,
    )
    manager = manager_for(
        session,
        models=job.models,
        faults=job.faults,
        approve_tools=job.approve_tools,
        approver=beside(view, terminal_approver(session)),
    )
    history = None
    if job.log or job.conversation is not None:
        from tieredllm.store.history import History

        history = History(manager.database)
    earlier = earlier_turns(history, job.conversation)
    prompt = Prompt(
        question=job.question,
        system=job.system if job.system is not None else earlier and earlier.system,
        history=earlier.messages if earlier else (),
        attachments=job.attachments,
    )

    def keep(answer: Answer) -> None:
        if history is not None and job.log:
            history.save(
                prompt,
                answer,
                profile=manager.profile.name,
                conversation_id=earlier.cid if earlier else None,
                secrets=manager.secrets(),
            )

    async def answered() -> int:
        try:
            answer = await show(_events(manager, prompt, job), view, animated=animated)
            code = _finish(session, job, answer)
            if answer.fallback_used or answer.error is not None:
                for mistake in manager.key_mistakes():
                    session.say(str(mistake))
            keep(answer)
            return code
        finally:
            await manager.aclose()

    try:
        return run(answered())
    finally:
        view.close()


def _events(manager: FallbackManager, prompt: Prompt, job: AskJob) -> AsyncGenerator[Event, None]:
    return manager.stream(
        prompt,
        options=Options(
            start=job.tier,
            fallback=job.fallback,
            require_llm=job.require_llm,
            deadline_s=job.deadline_s,
            stream=False if job.no_stream else None,
        ),
    )


def _finish(session: Session, job: AskJob, answer: Answer) -> int:
    """Print what comes after the answer, and judge it."""
    code = ExitCode.OK if answer.error is None else ExitCode.FAILURE
    if job.as_json:
        print(_as_json(answer, session.stdout), file=session.stdout, flush=True)
        _say_summary(session, answer)
        return code
    if answer.error is not None:
        for line in failure_lines(answer):
            session.warn(line)
        return code
    if job.extract:
        code = _extract(session, answer.text or "")
    _say_summary(session, answer)
    if job.usage:
        session.warn(usage_line(answer))
    return code


def _say_summary(session: Session, answer: Answer) -> None:
    summary = summary_line(answer)
    if summary is not None:
        session.say(summary)


def _as_json(answer: Answer, stream: TextIO) -> str:
    """Encode an answer; what the stream's encoding lacks is escaped, so that nothing is lost."""
    text = msgspec.json.encode(answer).decode()
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        import json

        text = json.dumps(json.loads(text))
    return text


def _extract(session: Session, text: str) -> ExitCode:
    from tieredllm.render.extract import first_code_block

    block = first_code_block(text)
    if block is None:
        session.warn(
            f"{_shown(text.rstrip(), session.stderr)}\n"
            "tieredllm: the answer above has no code block to extract"
        )
        return ExitCode.FAILURE
    block = _shown(block, session.stdout)
    session.stdout.write(block if block.endswith("\n") else f"{block}\n")
    session.stdout.flush()
    return ExitCode.OK


def _shown(text: str, stream: TextIO) -> str:
    """Clean a text that goes to a terminal; for anything else it stays as it is."""
    if not stream.isatty():
        return text
    from tieredllm.text import clean

    return clean(text)
