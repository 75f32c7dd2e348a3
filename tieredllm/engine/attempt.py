"""Make one attempt on one backend: compose, call, time every wait, and return how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

import msgspec

from tieredllm.aio import LoopTimeout
from tieredllm.clock import Clock
from tieredllm.engine.budget import silence_limit_s
from tieredllm.engine.plan import prompt_room
from tieredllm.engine.ports import Emit
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import Params, Tier
from tieredllm.prompts.policies import Composed, ContextTooSmallError, compose, tokens_of
from tieredllm.providers.base import (
    REMOTE,
    Backend,
    Call,
    CallPiece,
    Delta,
    Finish,
    Retraction,
    ThoughtDelta,
    ToolRequest,
)
from tieredllm.roles import without_tools
from tieredllm.types import (
    Attachment,
    LeftOut,
    Message,
    Notice,
    OutputSchema,
    Prompt,
    Retracted,
    Skip,
    Thought,
    Token,
    ToolCall,
    ToolChoice,
    ToolDeclaration,
    Usage,
)

__all__ = [
    "AttemptRequest",
    "Completed",
    "ContextSkipError",
    "Failed",
    "Outcome",
    "StreamState",
    "ToolCalls",
    "ToolContext",
    "fit_to_context",
    "patience_s",
    "stream_attempt",
]


class ContextSkipError(FallbackTriggerError):
    """A tier is passed over unasked: the question does not fit."""

    skip = Skip(
        why="context",
        cause=ErrorKind.CONTEXT_LENGTH,
        fix="shorten the question or what is piped in",
    )


class ToolContext(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt is told about tools."""

    declared: tuple[ToolDeclaration, ...] = ()
    instructions: str = ""
    """What the servers of declared tools say of themselves; for the system prompt."""
    rejected: tuple[str, ...] = ()
    """The names of tools that are not declared, as the backend has rejected them."""
    rounds: tuple[Message, ...] = ()
    """The calls so far and their results; they come after the question."""
    choice: ToolChoice = ToolChoice()
    results: str | None = None
    """All results so far as text, for where the rounds are no use."""
    spent: Usage = Usage()
    """The tokens of the backend's earlier rounds."""
    round: int = 0
    """How many rounds of tools this try of the backend has had before."""


class AttemptRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt's input."""

    tier: Tier
    backend: Backend
    prompt: Prompt
    params: Params
    """The tier's, with the request's own."""
    schema: OutputSchema | None
    request_id: str
    stream: bool
    omit: frozenset[str]
    """Wire names of parameters the backend is known to reject."""
    deadline: float
    """On the event loop's clock; infinite for a tier that cannot fail."""
    others_follow: bool
    """Whether another language model could still be asked afterwards."""
    tools: ToolContext
    told: set[Notice]
    """What the request's user has been told already."""
    clock: Clock


class StreamState(msgspec.Struct, kw_only=True):
    """What an attempt has brought so far, also when it is cut off."""

    pieces: list[str] = []
    thoughts: list[str] = []
    left_out: LeftOut | None = None
    notices: tuple[str, ...] = ()
    """What was left out, for people; said when the answer begins."""
    first_token_at: float | None = None
    """On the request's clock."""
    blanks: str = ""
    """What came before anything else, and may be nothing."""

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.pieces)

    def take(
        self, chunk: Delta | ThoughtDelta | Retraction | CallPiece, request: AttemptRequest
    ) -> Token | Thought | Retracted | None:
        """Return the event that a piece amounts to; None for blanks at the start, and no text."""
        if isinstance(chunk, ThoughtDelta):
            if not chunk.text and chunk.seal is None:
                return None
            self.thoughts.append(chunk.text)
            seal = chunk.seal
            if seal is not None:
                seal = msgspec.structs.replace(seal, made_by=request.backend.identity)
            return Thought(tier=request.tier.name, text=chunk.text, seal=seal)
        if isinstance(chunk, Retraction):
            self.thoughts += self.pieces
            self.pieces, self.blanks, self.first_token_at = [], "", None
            return Retracted(tier=request.tier.name)
        if isinstance(chunk, CallPiece):
            return None
        text = chunk.text
        if not self.pieces:
            self.blanks += text
            if self.blanks.isspace():
                return None
            text = self.blanks
            self.first_token_at = request.clock.monotonic()
        self.pieces.append(text)
        return Token(tier=request.tier.name, text=text, phase=chunk.phase)


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's complete answer."""

    text: str
    finish: Finish
    first_token_at: float | None
    calls: tuple[ToolCall, ...] = ()
    """The calls of the caller's tools that it ends with."""
    reasoning: str | None = None
    left_out: LeftOut | None = None
    max_tokens: int | None = None
    """The most tokens that were asked for; None where no limit was."""


class ToolCalls(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's wish for tools; nothing of it has run."""

    request: ToolRequest
    said: str
    """What the model said before its calls."""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's failure, or that there was none to make."""

    error: FallbackTriggerError


Outcome = Completed | ToolCalls | Failed


async def stream_attempt(
    request: AttemptRequest, state: StreamState, emit: Emit
) -> Finish | ToolRequest:
    """Emit an attempt's tokens and return how it ended, each wait bounded.

    What is waited for first (loading a local model, the first token) ends at the tier's first-token
    timeout, which a remote provider's request starts when it has been written; later waits at its
    idle timeout; all at the deadline. But for the deadline they are counted in time in which the
    event loop ran: a machine that is too busy to look says nothing about the backend. An attempt
    that is not streaming has the tier's `timeout_s` as a whole. Blanks are no token: those at the
    start are held back until something else follows, and an answer of nothing else is an empty one.
    A piece of a call is a token, too, but no text; a thought is neither, but no silence. The time
    that whoever reads takes is not the backend's.

    Args:
        request: what to ask, and for how long.
        state: filled with what comes.
        emit: takes the tokens.

    Raises:
        FallbackTriggerError: whatever went wrong, of a kind of the closed set.
        ContextSkipError: the question does not fit, and nothing was asked.
    """
    loop = asyncio.get_running_loop()
    wait = _Wait(request, now=loop.time())
    began = spoke = False
    try:
        async with LoopTimeout(wait.limit_s, until=request.deadline) as timer:

            def start_clock() -> None:
                if not began:
                    wait.start_clock(now=loop.time())
                    timer.restart(wait.limit_s)

            call = await _compose_call(request, state, start_clock)
            async with aclosing(request.backend.answer(call)) as answer:
                async for chunk in answer:
                    timer.pause()
                    if isinstance(chunk, Delta | ToolRequest):
                        await _tell(state.notices, request, emit)
                    if isinstance(chunk, Finish):
                        if not state.pieces:
                            break
                        await _tell(chunk.notices, request, emit)
                        if request.schema is not None:
                            from tieredllm.engine.shape import fitted

                            cut = chunk.reason == "length"
                            state.pieces = [fitted(state.text, request.schema.schema, cut=cut)]
                        return chunk
                    if isinstance(chunk, ToolRequest):
                        if state.first_token_at is None:
                            state.first_token_at = request.clock.monotonic()
                        return chunk
                    event = state.take(chunk, request)
                    if event is not None:
                        await emit(event)
                    timer.resume()
                    if event is not None or isinstance(chunk, CallPiece | ThoughtDelta):
                        began, spoke = True, spoke or not isinstance(chunk, ThoughtDelta)
                        if request.stream:
                            timer.restart(wait.after_token(now=loop.time()))
    except TimeoutError:
        raise wait.timeout(began=began, spoke=spoke, now=loop.time()) from None
    if spoke:
        raise FallbackTriggerError(ErrorKind.STREAM_INTERRUPTED, "the answer ended without an end")
    raise FallbackTriggerError(ErrorKind.EMPTY_RESPONSE, "the answer has no content")


async def _tell(messages: Sequence[str], request: AttemptRequest, emit: Emit) -> None:
    """Emit what the user has not been told yet."""
    for message in messages:
        notice = Notice(tier=request.tier.name, message=message)
        if notice not in request.told:
            request.told.add(notice)
            await emit(notice)


def patience_s(tier: Tier, *, stream: bool, others_follow: bool) -> float:
    """Return how many seconds a tier's first token, or its whole answer, is waited for.

    Where no other language model is left, none is given up before `timeout_s` is over: a slow
    answer is better than none.

    Args:
        tier: whose limits hold.
        stream: whether it streams.
        others_follow: whether another language model could still be asked afterwards.
    """
    if stream and others_follow:
        return tier.first_token_timeout_s
    return max(tier.first_token_timeout_s, tier.timeout_s) if stream else tier.timeout_s


class _Wait:
    """The wait for an attempt's next token.

    Until a remote provider's request is written it is this machine, or the way there, that is
    waited for: connecting has its own limit, and the rest, however slow, says nothing about the
    backend. It has `timeout_s` in all.
    """

    def __init__(self, request: AttemptRequest, *, now: float) -> None:
        tier = request.tier
        self._request = request
        self._timeout_s = patience_s(
            tier, stream=request.stream, others_follow=request.others_follow
        )
        self._is_sent = request.backend.provider not in REMOTE
        self._begin(self._timeout_s if self._is_sent else max(self._timeout_s, tier.timeout_s), now)

    def start_clock(self, *, now: float) -> None:
        """Start anew: the request has been written."""
        self._is_sent = True
        self._begin(self._timeout_s, now)

    def _begin(self, timeout_s: float, now: float) -> None:
        limit_s = silence_limit_s(
            timeout_s=timeout_s,
            left_s=max(0.0, self._request.deadline - now),
            others_follow=self._request.others_follow,
        )
        self._started = self._last_at = now
        self._is_shortened = limit_s < timeout_s
        self.limit_s = limit_s

    def after_token(self, *, now: float) -> float:
        """Return for how long the next one is waited for."""
        tier, self._last_at = self._request.tier, now
        if self._request.others_follow:
            return tier.idle_timeout_s
        return max(tier.idle_timeout_s, self._started + tier.timeout_s - now)

    def timeout(self, *, began: bool, spoke: bool, now: float) -> FallbackTriggerError:
        """Return what a wait that was cut off amounts to.

        One that the request's own time cut short says nothing about the backend: it is a
        `deadline`.

        Args:
            began: whether a token or a thought came, so that it is a later wait.
            spoke: whether a token came.
            now: the time, on the event loop's clock.
        """
        waited_s = now - self._started
        if now >= self._request.deadline - 0.001 or (self._is_shortened and not began):
            return FallbackTriggerError(
                ErrorKind.DEADLINE, f"its share of the request's time was up after {waited_s:.1f} s"
            )
        if began:
            kind = ErrorKind.STREAM_INTERRUPTED if spoke else ErrorKind.TIMEOUT
            return FallbackTriggerError(kind, f"no token for {now - self._last_at:.1f} s")
        if not self._is_sent:
            message = f"the request could not be sent within {waited_s:.1f} s"
            return FallbackTriggerError(ErrorKind.TIMEOUT, message, counts=False)
        what = "no token" if self._request.stream else "no answer"
        return FallbackTriggerError(ErrorKind.TIMEOUT, f"{what} within {waited_s:.1f} s")


class _Fit(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's messages, and what of its tools fits beside them."""

    composed: Composed
    declared: tuple[ToolDeclaration, ...] = ()
    rounds: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """All that is sent."""
        return (*self.composed.messages, *self.rounds)


def fit_to_context(
    prompt: Prompt,
    tools: ToolContext,
    *,
    policy: str,
    budget_tokens: int,
    count: Callable[[str], int],
) -> _Fit:
    """Compose a prompt beside what tools take of the context.

    When the rounds so far do not fit, their results are told as text, which can be cut; when the
    declarations of the tools do not fit either, there are none.

    Args:
        prompt: the request.
        tools: what there is to be told about tools.
        policy: see `compose`.
        budget_tokens: see `compose`.
        count: see `compose`.

    Raises:
        ContextTooSmallError: not even the question fits.
    """
    quoted = prompt
    if tools.results is not None:
        results = Attachment(text=tools.results, name="tool results")
        attachments = (*prompt.attachments, results)
        quoted = msgspec.structs.replace(prompt, attachments=attachments)
    declared_tokens = count(_text_of(tools.declared)) if tools.declared else 0
    if tools.declared:
        system = "\n\n".join(it for it in (prompt.system, tools.instructions) if it) or None
        prompt = msgspec.structs.replace(prompt, system=system)
        with_results = msgspec.structs.replace(quoted, system=system)
        # Without rounds the results have to be told, if there are any.
        whole, told = (tools.rounds, prompt) if tools.rounds else ((), with_results)
        tokens = declared_tokens + sum(tokens_of(message, count) for message in whole)
        for rounds, asked, taken in ((whole, told, tokens), ((), with_results, declared_tokens)):
            try:
                composed = compose(
                    asked, policy=policy, budget_tokens=budget_tokens - taken, count=count
                )
            except ContextTooSmallError:
                continue
            return _Fit(composed=composed, declared=tools.declared, rounds=rounds)
    # No vendor takes calls or results where no tools are declared.
    history = tuple(without_tools(quoted.history))
    quoted = msgspec.structs.replace(quoted, history=history)
    composed = compose(quoted, policy=policy, budget_tokens=budget_tokens, count=count)
    return _Fit(composed=composed)


async def _compose_call(
    request: AttemptRequest, state: StreamState, on_sent: Callable[[], None]
) -> Call:
    tier, params = request.tier, request.params
    fit = _Fit(composed=Composed(messages=()))
    if request.backend.is_language_model:
        count = await request.backend.token_counter()
        try:
            fit = fit_to_context(
                request.prompt,
                request.tools,
                policy=tier.prompt,
                budget_tokens=prompt_room(tier, params),
                count=count,
            )
        except ContextTooSmallError as exc:
            raise ContextSkipError(ErrorKind.CONTEXT_LENGTH, str(exc)) from exc
        state.notices, state.left_out = fit.composed.notices, fit.composed.left_out
    return Call(
        prompt=request.prompt,
        messages=fit.messages,
        params=params,
        stream=request.stream,
        connect_timeout_s=tier.connect_timeout_s,
        idle_timeout_s=tier.idle_timeout_s,
        omit=request.omit,
        request_id=request.request_id,
        tools=fit.declared,
        tool_choice=request.tools.choice,
        schema=request.schema,
        on_sent=on_sent,
    )


def _text_of(declared: tuple[ToolDeclaration, ...]) -> str:
    return msgspec.json.encode(declared).decode()
