"""What a program may write against the library; never run, but checked by mypy --strict."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_never, assert_type

import tieredllm
from tieredllm import (
    Answer,
    Answered,
    Attachment,
    Attempt,
    AttemptFailed,
    AttemptStarted,
    CallsMade,
    ErrorInfo,
    ErrorKind,
    Event,
    FallbackManager,
    FellBack,
    Message,
    NoAnswerError,
    Notice,
    Options,
    Prompt,
    Retracted,
    RetryScheduled,
    Skip,
    Thought,
    TierSkipped,
    Token,
    ToolEnded,
    ToolStarted,
    ToolsWanted,
    ToolUse,
    Usage,
)


def ask() -> str:
    """Synchronous code gets an answer, or an error that has one."""
    manager = FallbackManager("default")
    options = Options(start="secondary", require_llm=True, deadline_s=3)
    try:
        answer = manager.ask("why?", {"system": "Be brief."}, options=options)
    except NoAnswerError as exc:
        return describe(exc.answer)
    assert_type(answer, Answer)
    return answer.text or ""


def describe(answer: Answer) -> str:
    """The fields of an answer have types of their own."""
    assert_type(answer.usage, Usage)
    assert_type(answer.error, ErrorInfo | None)
    assert_type(answer.attempts, tuple[Attempt, ...])
    assert_type(answer.tool_calls, tuple[ToolUse, ...])
    skips = [attempt.skip for attempt in answer.attempts if attempt.skip is not None]
    assert_type(skips, list[Skip])
    kinds = [skip.cause for skip in skips]
    assert_type(kinds, list[ErrorKind | None])
    return answer.original_error or tieredllm.__version__


async def answers(manager: FallbackManager) -> Answer:
    """Asynchronous code, with each shape a prompt may have."""
    prompt = Prompt(
        question="what is this?",
        history=(Message("user", "hello"),),
        attachments=(Attachment(text="…"),),
    )
    await manager.process_with_fallbacks([{"role": "user", "content": "hello"}])
    return await manager.process_with_fallbacks(prompt, options=Options(fallback=False))


async def texts(manager: FallbackManager) -> AsyncIterator[str]:
    """Every event is one of these, and their fields are known."""
    async with manager:
        async for event in manager.stream("hello", options=Options(stream=True)):
            yield text_of(event)


def text_of(event: Event) -> str:
    """A match over the events is exhaustive."""
    match event:
        case Token(text=text) | Thought(text=text):
            return text
        case Retracted(tier=tier):
            return f"{tier} was thinking"
        case CallsMade(calls=calls):
            return ", ".join(call.name for call in calls)
        case Answered(answer=answer):
            return answer.text or describe(answer)
        case AttemptStarted(tier=tier, number=number):
            return f"{tier} {number}"
        case AttemptFailed(attempt=attempt) | TierSkipped(attempt=attempt):
            return attempt.why
        case RetryScheduled(wait_s=wait_s, error=error):
            return f"{wait_s:.1f} {error.kind}"
        case FellBack(from_tier=one, to_tier=other):
            return f"{one} {other}"
        case Notice(message=message):
            return message
        case ToolsWanted(names=names):
            return ", ".join(names)
        case ToolStarted(name=name) | ToolEnded(result=name):
            return str(name)
        case _:
            assert_never(event)


def misuse() -> None:
    """What is spelled wrong is found before it runs."""
    FallbackManager().ask("x", deadline=3)  # type: ignore[call-arg]
    Options(deadline="soon")  # type: ignore[call-arg]
    _ = tieredllm.FallbackManger  # type: ignore[attr-defined]
