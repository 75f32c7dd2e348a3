"""Carry out `ask`: run the request, show it, keep it, and say with which code it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from tieredllm.cli.context import Session
from tieredllm.cli.exits import ExitCode
from tieredllm.cli.views import View, make_view
from tieredllm.client import FallbackManager
from tieredllm.errors import ErrorKind, UsageError
from tieredllm.profile.resolve import load_profile
from tieredllm.profile.schema import Profile
from tieredllm.render.summary import failure_lines, summary_line, usage_line
from tieredllm.types import Answer, Answered, Attachment, Prompt

if TYPE_CHECKING:
    from tieredllm.store.history import Conversation, History

__all__ = ["AskJob", "perform"]

TICK_S = 0.1
"""How often what is shown while waiting is brought up to date, in seconds."""


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
    faults: dict[str, str]
    """The faults to play, by tier name."""


def perform(session: Session, job: AskJob) -> int:
    """Ask, print the answer, and give the exit code.

    Raises:
        UsageError: the profile, a tier's name, a fault's name or a conversation is wrong.
    """
    profile = _with_models(load_profile(session.profile_name, session.places), job.models)
    manager = FallbackManager(
        profile,
        env=session.env,
        places=session.places,
        simulate=_faults(job.faults),
        verbose=session.verbose,
    )
    history = _history(manager) if job.log or job.conversation is not None else None
    earlier = _earlier(history, job.conversation)
    prompt = Prompt(
        question=job.question,
        system=job.system if job.system is not None else earlier and earlier.system,
        history=earlier.messages if earlier else (),
        attachments=job.attachments,
    )
    view, animated = make_view(session, job)
    try:
        answer = asyncio.run(_run(manager, prompt, job, view, animated=animated))
    finally:
        view.close()
    code = _finish(session, job, answer)
    if history is not None and job.log:
        history.save(
            prompt, answer, profile=profile.name, conversation_id=earlier.cid if earlier else None
        )
    manager.database.close()
    return code


async def _run(
    manager: FallbackManager, prompt: Prompt, job: AskJob, view: View, *, animated: bool
) -> Answer:
    answer: Answer | None = None
    ticker = asyncio.create_task(_tick(view)) if animated else None
    try:
        async for event in manager.stream(
            prompt,
            start=job.tier,
            fallback=job.fallback,
            require_llm=job.require_llm,
            deadline_s=job.deadline_s,
            stream=False if job.no_stream else None,
        ):
            view.handle(event)
            if isinstance(event, Answered):
                answer = event.answer
    finally:
        if ticker is not None:
            ticker.cancel()
        await manager.aclose()
    assert answer is not None  # noqa: S101 - the stream's last event is Answered
    return answer


async def _tick(view: View) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        view.tick()


def _finish(session: Session, job: AskJob, answer: Answer) -> int:
    """Print what comes after the answer, and judge it."""
    code = ExitCode.OK if answer.error is None else ExitCode.FAILURE
    if job.as_json:
        print(msgspec.json.encode(answer).decode(), file=session.stdout, flush=True)
        return code
    if answer.error is not None:
        for line in failure_lines(answer):
            session.warn(line)
        return code
    if job.extract:
        code = _extract(session, answer.text or "")
    line = summary_line(answer)
    if line:
        session.say(line)
    if job.usage:
        session.warn(usage_line(answer))
    return code


def _extract(session: Session, text: str) -> ExitCode:
    from tieredllm.render.extract import first_code_block

    block = first_code_block(text)
    if block is None:
        session.warn(f"{text.rstrip()}\ntieredllm: the answer above has no code block to extract")
        return ExitCode.FAILURE
    session.stdout.write(block if block.endswith("\n") else f"{block}\n")
    session.stdout.flush()
    return ExitCode.OK


def _with_models(profile: Profile, models: dict[str, str]) -> Profile:
    """Give the profile with other models in some tiers."""
    known = [tier.name for tier in profile.tiers if tier.model is not None]
    for name in models:
        if name not in known:
            reason = f"--model: no tier {name!r} with a model: there are {', '.join(known)}"
            raise UsageError(reason)
    if not models:
        return profile
    tiers = tuple(
        msgspec.structs.replace(tier, model=models.get(tier.name, tier.model))
        for tier in profile.tiers
    )
    return msgspec.structs.replace(profile, tiers=tiers)


def _faults(given: dict[str, str]) -> dict[str, ErrorKind]:
    faults: dict[str, ErrorKind] = {}
    for tier, name in given.items():
        try:
            faults[tier] = ErrorKind(name)
        except ValueError:
            reason = f"--simulate: no fault {name!r}: there are {', '.join(ErrorKind)}"
            raise UsageError(reason) from None
    return faults


def _history(manager: FallbackManager) -> History:
    from tieredllm.store.history import History

    return History(manager.database)


def _earlier(history: History | None, conversation: str | None) -> Conversation | None:
    """Give the conversation to continue.

    Raises:
        UsageError: there is none of that id, or none at all.
    """
    if history is None or conversation is None:
        return None
    earlier = history.conversation(conversation or None)
    if earlier is None:
        what = f"no conversation {conversation!r}" if conversation else "no conversation yet"
        reason = f"{what} to continue (see `tieredllm log`)"
        raise UsageError(reason)
    return earlier
