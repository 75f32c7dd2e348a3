"""Define the values that flow from the prompt to the answer, and the events on the way."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tieredllm.kinds import ErrorInfo, ErrorKind

__all__ = [
    "NO_MODEL",
    "Answer",
    "Answered",
    "Attachment",
    "Attempt",
    "AttemptFailed",
    "AttemptStarted",
    "CallsMade",
    "Document",
    "Event",
    "FellBack",
    "FrequencyPenalty",
    "Image",
    "LeftOut",
    "MaxTokens",
    "Message",
    "MessagePart",
    "Notice",
    "Options",
    "Outcome",
    "OutputSchema",
    "ParamOverrides",
    "PresencePenalty",
    "Prompt",
    "ReasoningEffort",
    "Retracted",
    "RetryScheduled",
    "Role",
    "Seal",
    "Seed",
    "Skip",
    "SkipReason",
    "Stop",
    "Temperature",
    "Thought",
    "TierSkipped",
    "Token",
    "ToolCall",
    "ToolChoice",
    "ToolDeclaration",
    "ToolEnded",
    "ToolOutcome",
    "ToolResult",
    "ToolStarted",
    "ToolUse",
    "ToolsWanted",
    "TopP",
    "Usage",
    "answering",
    "backend_of",
    "is_from_first_choice",
    "last_failures",
    "rejected_tool",
]

NO_MODEL = frozenset({"rules", "cache"})
"""Providers whose answers no model has just written."""

Role = Literal["system", "user", "assistant", "tool"]
Outcome = Literal["ok", "failed", "skipped", "cancelled"]
SkipReason = Literal[
    "not_configured", "circuit_open", "half_open", "degraded", "no_time", "context", "capability"
]
"""Why a backend was not asked: see `Skip.why`."""
ToolOutcome = Literal["ok", "failed", "timeout", "cancelled", "invalid", "unknown", "denied"]
"""How a tool call ended. After the last three nothing ran."""


Temperature = Annotated[float, Meta(ge=0, le=2)]
MaxTokens = Annotated[int, Meta(ge=1, le=1_000_000)]
TopP = Annotated[float, Meta(gt=0, le=1)]
FrequencyPenalty = Annotated[float, Meta(ge=-2, le=2)]
PresencePenalty = FrequencyPenalty
Stop = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(max_length=16)]
Seed = Annotated[int, Meta(ge=0, le=2**31 - 1)]
ReasoningEffort = Annotated[str, Meta(pattern=r"^[a-z]{1,16}$")]
"""A vendor's word: `none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max` and others."""


class _Media(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    media_type: str | None = None
    """For instance `image/png`; needed beside data, not beside a URL."""
    data: bytes = b""
    """The file itself; empty beside a URL."""
    url: str | None = None
    """Where the vendor fetches it."""


_MEDIA = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
"""First bytes of what can be attached (PNG 5.2, JFIF, GIF89a, ISO 32000); WebP has its own after a
RIFF header. These are the kinds that all three vendors take."""


def media_type(data: bytes | bytearray) -> str | None:
    """Return what an image or a PDF is by its first bytes; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _MEDIA if data.startswith(start)), None)


class Image(_Media, frozen=True, kw_only=True, tag="image"):
    """A picture in a message."""

    detail: Literal["low", "high", "auto"] | None = None
    """How closely it is looked at, where a vendor lets one choose."""


class Document(_Media, frozen=True, kw_only=True, tag="document"):
    """A PDF document in a message."""

    name: str | None = None
    """The file's name."""


MessagePart = Image | Document
"""What a message has besides text."""


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """Text that the question is about: what was piped in, or a file."""

    text: str
    name: str | None = None
    """The file's name, or None for piped text."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool as a model made it."""

    id: str
    """The vendor's, or one made up where a vendor gives none."""
    name: str
    arguments: str = ""
    """JSON text, as it came; empty for none."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation, whoever sent or is sent it."""

    role: Role
    content: str
    attachments: tuple[Attachment, ...] = ()
    """The text that a user's turn is about, apart from what the user said; it comes before that."""
    parts: tuple[MessagePart, ...] = ()
    """What a user's turn has besides text."""
    calls: tuple[ToolCall, ...] = ()
    """What an assistant's turn calls; a `tool` message for each comes after it, in their order."""
    call_id: str | None = None
    """For a `tool` message: the call whose result it is."""
    name: str | None = None
    """For a `tool` message: the tool's name."""
    is_error: bool = False
    """For a `tool` message: whether the content says what went wrong."""
    made_by: str | None = None
    """For an assistant's turn: the identity of the backend that wrote it; None where unknown."""
    raw: Any = None
    """An assistant's turn in its vendor's own form, for the backend that made it alone: signatures
    in it hold nowhere else."""
    phase: str | None = None
    """For an assistant's turn: what OpenAI's models call it; see `Token.phase`."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the user made it, its parts kept apart.

    The question is never cut; the attachments may be, to what a tier's context leaves. An empty
    question with attachments means that the attached text speaks for itself.
    """

    question: str
    system: str | None = None
    history: tuple[Message, ...] = ()
    """The earlier turns, oldest first, without the question. Where they end with a tool's result
    there may be no question: the model goes on from there."""
    attachments: tuple[Attachment, ...] = ()
    parts: tuple[MessagePart, ...] = ()
    """The images and documents that the question is about."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        said = bool(self.question.strip()) or any(it.text.strip() for it in self.attachments)
        goes_on = bool(self.history) and self.history[-1].role == "tool"
        return not (said or self.parts or goes_on)


class ParamOverrides(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampling parameters that a request sets itself, in place of its tiers'; None: the tier's."""

    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    top_p: TopP | None = None
    frequency_penalty: FrequencyPenalty | None = None
    presence_penalty: PresencePenalty | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    reasoning_effort: ReasoningEffort | None = None


class ToolDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is told of a tool."""

    name: str
    description: str = ""
    parameters: dict[str, Any]
    """The JSON Schema of its arguments, an object."""
    strict: bool | None = None
    """Whether the vendor is to hold the model to the schema, where it can; None: its default."""

    @property
    def rejected_as(self) -> str:
        """What a backend's memory of rejected parameters calls it: another one when it changes."""
        text = msgspec.json.encode((self.description, self.parameters), order="deterministic")
        return f"{self.name}{_TOOL_MARK}{zlib.crc32(text):08x}"


_TOOL_MARK = "#"
"""Ends a tool's name in a memory of rejected parameters; no parameter's name has it."""


def rejected_tool(parameter: str) -> str | None:
    """Return the name of the tool that a rejected parameter stands for; None when it is another."""
    name, mark, _ = parameter.rpartition(_TOOL_MARK)
    return name if mark else None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and what a model is to call."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    """With `required`: the one tool that is to be called; any when None."""
    parallel: bool | None = None
    """Whether it may make several calls at once; None: the vendor's default."""


class OutputSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The shape that an answer has to have."""

    name: str = "answer"
    """What vendors that want a name call it: letters, digits, `_` and `-`, at most 64."""
    schema: dict[str, Any]
    """The JSON Schema of the answer."""
    strict: bool | None = None
    """Whether the vendor is to hold the model to it to the letter; None: where it can."""

    @property
    def is_json_mode(self) -> bool:
        """Whether it is OpenAI's `json_object`: any object, as the prompt describes it."""
        return self.strict is False and self.schema == {"type": "object"}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What one request asks for besides its prompt."""

    start: str | None = None
    """The tier to start at; the first when None."""
    fallback: bool = True
    """Whether later tiers may answer."""
    max_tier: str | None = None
    """The last tier that may answer; the profile's last when None."""
    patient: bool = False
    """Whether backends that were set aside for their health are left alone even when no other
    language model is left: the caller waits for their circuits instead."""
    require_llm: bool | None = None
    """Whether the rule engine's answer would be a failure; None: what the profile says."""
    deadline_s: Annotated[float, Meta(gt=0)] | None = None
    """Seconds for the whole request; overrides the profile's."""
    stream: bool | None = None
    """Overrides the tiers' own."""
    params: ParamOverrides = ParamOverrides()
    """What the caller sets itself; `engine.plan.merged` says how it meets a tier's own."""
    schema: OutputSchema | None = None
    """The shape of the answer; a tier that cannot be held to it is passed over."""
    caller_tools: tuple[ToolDeclaration, ...] = ()
    """Tools that the caller runs: a model's calls of them are the answer. Beside them the profile's
    own are not offered."""
    tool_choice: ToolChoice = ToolChoice()
    """Whether and which of the caller's tools the model is to call."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The token counts a backend reported for one answer."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    """Why a backend was not asked, as data."""

    why: SkipReason
    """`not_configured`, a key or a file is missing; `circuit_open`, it failed repeatedly or was
    told to wait; `half_open`, another request is probing it; `degraded`, its recent requests
    break a threshold; `no_time`, the request's time is up; `context`, the question does not fit;
    `capability`, it lacks what the request needs."""
    cause: ErrorKind | None = None
    """The kind of error behind it, where one kind is: what opened the circuit."""
    fix: str | None = None
    """One thing to do about it, where anybody can do anything."""
    retry_at: str | None = None
    """When an open circuit may be probed, ISO 8601 in UTC."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call of one backend, or why there was none."""

    tier: str
    """The tier's name."""
    level: int
    """The tier's place in the profile, 0 for the first."""
    provider: str
    """Whose wire it speaks."""
    model: str
    """The model that was asked."""
    alternate: int = 0
    """Which of the tier's backends: 0 for the first, 1 for the first of its alternates, …"""
    outcome: Outcome
    """`ok`; `failed`; `skipped`, it was not asked; `cancelled`, it lost a race or was given up."""
    error: ErrorInfo | None = None
    """Why it failed."""
    skip: Skip | None = None
    """Why it was skipped."""
    reason: str | None = None
    """Why it was skipped or cancelled, or which tools it called, for people."""
    started_ms: float
    """Milliseconds from the request's start."""
    duration_ms: float
    """How long it took."""
    first_token_ms: float | None = None
    """Milliseconds from the attempt's start to its first token."""

    @property
    def is_unconfigured(self) -> bool:
        """Whether the backend lacks a key or a file, and so was no choice at all."""
        return self.skip is not None and self.skip.why == "not_configured"

    @property
    def why(self) -> str:
        """One line on why this attempt gave no answer."""
        return str(self.error) if self.error is not None else self.reason or self.outcome


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a call: data from outside, cleaned and limited, never instructions."""

    call_id: str
    name: str
    text: str
    """What the tool gave, or what went wrong."""
    outcome: ToolOutcome
    parts: tuple[MessagePart, ...] = ()
    """The images it gave; the text names each in its place."""
    repeated: bool = False
    """Whether it is remembered from the same call earlier in the request; nothing ran again."""
    duration_ms: float = 0.0

    @property
    def is_error(self) -> bool:
        """Whether the text says what went wrong."""
        return self.outcome != "ok"

    @property
    def content(self) -> str:
        """The text a model gets."""
        if not self.repeated:
            return self.text
        return f"(The same call as before in this request; it was not run again.)\n{self.text}"

    def as_message(self) -> Message:
        """Return the message that tells a model of it."""
        return Message(
            "tool",
            self.content,
            parts=self.parts,
            call_id=self.call_id,
            name=self.name,
            is_error=self.is_error,
        )


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call of a request: an entry of `tool_calls` in `ask --json`."""

    tier: str
    """The tier whose model made it."""
    name: str
    arguments: Any
    """The decoded arguments; the text as it came when it is no JSON."""
    outcome: ToolOutcome
    result: str
    """What the model was given, or what went wrong."""
    repeated: bool = False
    """Whether the result is that of an earlier call, and nothing ran."""
    duration_ms: float = 0.0


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """What a tier was not sent for want of room."""

    history_messages: int = 0
    attached_tokens: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one request: the fields of `ask --json`.

    A failed request is an answer too: its `text` is None and its `error` is set.
    """

    request_id: str
    """32 hexadecimal digits."""
    text: str | None = None
    """The answer; null when there is none."""
    tier: str | None = None
    """The tier that answered."""
    fallback_level: int | None = None
    """Its place in the profile, 0 for the first."""
    fallback_used: bool = False
    """Whether it is not the first."""
    provider: str | None = None
    """Its provider."""
    model_used: str | None = None
    """The model as its server names it."""
    latency_ms: float
    """Milliseconds from the request's start to the complete answer."""
    first_token_ms: float | None = None
    """Milliseconds from the request's start to the first token of the answer."""
    finish_reason: str | None = None
    """`stop`; `length` when the answer ended at `max_tokens`; `repetition` when it ran in circles
    and was cut to its first round; `tool_calls` when it is calls of the caller's tools."""
    truncated: bool = False
    """Whether it was cut, at a limit or because it ran in circles."""
    max_tokens: int | None = None
    """The most tokens that were asked for; null where no limit was."""
    reasoning: str | None = None
    """What the model thought before it answered, where it says so; no part of the answer."""
    calls: tuple[ToolCall, ...] = ()
    """The calls of the caller's tools that the answer consists of, besides its text."""
    left_out: LeftOut | None = None
    """What the tier that answered was not sent; None when it was sent everything."""
    usage: Usage = Usage()
    """`prompt_tokens` and `completion_tokens`, as far as the backend told."""
    cost: float | None = None
    """What the answer cost, where the profile names prices; in their currency."""
    original_error: str | None = None
    """Why each tier before gave way, the first one first."""
    ref_code: str | None = None
    """Of an answer by rules: what `log show` finds it by."""
    intent: str | None = None
    """What the rules took the question for."""
    cached_at: str | None = None
    """When a cached answer was first given (ISO 8601), for the cache tier."""
    error: ErrorInfo | None = None
    """Why nothing answered."""
    attempts: tuple[Attempt, ...] = ()
    """What was tried, and passed over, in the order in which it began."""
    tool_calls: tuple[ToolUse, ...] = ()
    """What models called, all tiers together; also when the request failed."""

    @property
    def is_less(self) -> bool:
        """Whether it is less than a model's whole answer: cut at a limit, or by rules."""
        return self.error is None and (self.truncated or self.provider == "rules")

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain values, in the order of the fields."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


def last_failures(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return, for each tier that gave way, the attempt that says why; the first tier first.

    That is the last one that failed, or the first that was passed over when none failed.
    """
    last: dict[tuple[int, str], Attempt] = {}
    for attempt in attempts:
        key = (attempt.level, attempt.tier)
        if attempt.outcome == "failed" or (attempt.outcome == "skipped" and key not in last):
            last[key] = attempt
    return [attempt for _, attempt in sorted(last.items(), key=lambda item: item[0])]


def answering(answer: Answer) -> Attempt | None:
    """Return the attempt that an answer comes from."""
    ended = (it for it in reversed(answer.attempts) if it.outcome == "ok")
    return next((it for it in ended if it.tier == answer.tier), None)


def is_from_first_choice(answer: Answer) -> bool:
    """Return whether the answer is that of the first backend that is configured."""
    won = answering(answer)
    if won is None or (won.provider == "rules" and len(answer.attempts) > 1):
        return not answer.fallback_used
    first = next(it for it in answer.attempts if not it.is_unconfigured)
    return backend_of(first) == backend_of(won)


def backend_of(attempt: Attempt) -> tuple[int, str, int, str, str]:
    """Return what tells the backends of a request apart; two may have the same model."""
    return attempt.level, attempt.tier, attempt.alternate, attempt.provider, attempt.model


class AttemptStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A backend is being asked."""

    tier: str
    level: int
    provider: str
    model: str
    number: int
    """1 for the first try on this backend, 2 for its first retry."""
    next_tier: str | None = None
    """The tier that is asked if this backend does not answer; None when nobody is left. It may be
    the same tier with another model."""
    next_model: str | None = None
    """That tier's model."""
    until_s: float | None = None
    """Seconds that a model's first token is waited for, at most, where somebody is next."""
    without: tuple[str, ...] = ()
    """The parameters and tools it is asked without, as it has rejected them."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of answer text, not yet known to be part of a complete answer."""

    tier: str
    text: str
    phase: str | None = None
    """What the model calls this part of its turn, where it says so: OpenAI's `commentary` or
    `final_answer`."""


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What a vendor signs a thought with, so that it is known when it comes back."""

    kind: Literal["signature", "redacted", "encrypted"]
    """A signature of the thoughts since the seal before; thoughts that nobody can read; or an item
    of OpenAI's Responses API, as JSON, that holds all of the thoughts since the seal before."""
    data: str
    made_by: str = ""
    """The identity of the backend, which alone is given it back."""
    calls_before: int = 0
    """How many of the turn's calls came before it."""


class Thought(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what a model thinks before it answers; no part of the answer."""

    tier: str
    text: str
    """Empty where it is a seal alone."""
    seal: Seal | None = None


class Retracted(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt has said so far has turned out to be thoughts, and no part of the answer.

    The server has marked the end of them alone. Tokens that follow are the answer's.
    """

    tier: str


class CallsMade(msgspec.Struct, frozen=True, kw_only=True):
    """The answer ends with calls of the caller's tools; nothing of it can fail any more."""

    tier: str
    calls: tuple[ToolCall, ...]


class ToolsWanted(msgspec.Struct, frozen=True, kw_only=True):
    """A model calls tools: what it said before is no part of the answer."""

    tier: str
    names: tuple[str, ...]
    streamed: bool
    """Whether tokens of this attempt were sent before."""


class ToolStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call is being carried out."""

    tier: str
    call_id: str
    name: str
    arguments: str
    """JSON text, as the model wrote it."""


class ToolEnded(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a tool call."""

    tier: str
    result: ToolResult


class RetryScheduled(msgspec.Struct, frozen=True, kw_only=True):
    """The same backend is asked again after a wait."""

    tier: str
    wait_s: float
    error: ErrorInfo


class AttemptFailed(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt failed or was cancelled; text it streamed is void."""

    attempt: Attempt
    streamed: bool
    """Whether tokens of this attempt were sent before."""


class TierSkipped(msgspec.Struct, frozen=True, kw_only=True):
    """A backend was passed over without being asked."""

    attempt: Attempt


class FellBack(msgspec.Struct, frozen=True, kw_only=True):
    """A tier gave way to a lower one."""

    from_tier: str
    to_tier: str
    reason: str


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something the user is to know about the request that is not an error."""

    tier: str
    message: str


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the stream: the complete answer, or the failed one (its `error` is set)."""

    answer: Answer


Event = (
    AttemptStarted
    | Token
    | Thought
    | Retracted
    | CallsMade
    | ToolsWanted
    | ToolStarted
    | ToolEnded
    | RetryScheduled
    | AttemptFailed
    | TierSkipped
    | FellBack
    | Notice
    | Answered
)
