"""A backend behind HTTP: everything that the vendors' backends have in common.

A vendor's own module says how a request looks (`_build_request`), what an answer says
(`_parse_chunk`) and how its model list looks (`listed_as`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from tieredllm.aio import LoopTimeout, give_way
from tieredllm.clock import Clock
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import FIXES, ErrorInfo, ErrorKind
from tieredllm.lenient_json import DONE, NotJsonError, decode, decode_all
from tieredllm.profile.schema import BASE_URLS, BackendSettings, Params
from tieredllm.prompts.fit import estimate_tokens
from tieredllm.providers.accumulator import (
    Part,
    ResponseAccumulator,
    Said,
    stream_chunks,
)
from tieredllm.providers.base import (
    DEEP_PROBE_S,
    PROBE_S,
    Call,
    Capabilities,
    Chunk,
    Delta,
    Missing,
    ProbeResult,
    Retraction,
    ThoughtDelta,
    TokenCounter,
    ToolRequest,
)
from tieredllm.providers.http import HttpClients, Reply, Request
from tieredllm.providers.json_path import find_error, get_path, get_str
from tieredllm.providers.request_info import RequestInfo, host_of
from tieredllm.providers.text_calls import TextCalls
from tieredllm.providers.tool_calls import ToolCallCollector, told_name
from tieredllm.providers.tool_schema import adapt_tools, rules_of
from tieredllm.thoughts import HeldStart
from tieredllm.types import Message, Prompt, ToolDeclaration

__all__ = [
    "SMALL_CAP_TOKENS",
    "CloudBackend",
    "KeyStore",
    "Vendor",
    "WireRequest",
    "base64_of",
    "given",
    "is_own_host",
]

Vendor = Literal["openai", "anthropic", "gemini"]

OPENROUTER = "openrouter.ai"
KEY_PATH = "/key"
"""What OpenRouter tells of a key, and 401 of one that is none (its API reference)."""

SHOWN_NAMES = 5
"""How many of a server's models are named where the one that is wanted is not among them."""

SMALL_CAP_TOKENS = 4096
"""Below this `max_tokens`, a model that thinks is asked to think little.

Thoughts count against the cap at every vendor, and a model left to itself spends it all on them
and answers nothing.
"""


# Models whose chat templates open the block themselves (11 of 209 templates that were tried). A
# server that does not read the block passes on its end alone.
_OPENS_THOUGHTS = re.compile(
    r"(?i)\br1\b|deepcoder|qwq|qwen.*thinking|exaone-?deep|minimax-m2|nemotron-nano|step-?3"
)


class KeyStore(Protocol):
    """Look keys up by the name of their variable."""

    def get(self, name: str, /) -> str | None:
        """Return the key; None when it isn't set."""
        ...


class WireRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request in a vendor's own form."""

    path: str
    """Below the base URL."""
    body: Mapping[str, Any]
    parameters: Mapping[str, str] = {}
    """What could be left out: words a server may use for a parameter, and its wire name."""


def is_own_host(base_url: str | None, own_host: str) -> bool:
    """Return whether a server is the vendor's own, at whichever of its regions.

    Args:
        base_url: where the server is; None for the vendor's own.
        own_host: the name of the vendor's server.
    """
    if base_url is None:
        return True
    host = (base_url.strip().partition("://")[2].partition("/")[0]).lower()
    return host == own_host or host.endswith("." + own_host)


class CloudBackend(ABC):
    """One model at one URL.

    Args:
        source: what the profile says of it.
        api_key_env: the variable that holds the key; None when the server needs none.
        keys: where the key is looked up, each time anew.
        http: the shared connections.
        clock: the time.
    """

    provider: ClassVar[Vendor]
    is_language_model = True
    own_host: ClassVar[str]
    """The vendor's own server; what is known of its models by name holds there."""
    models_path: ClassVar[str]
    """Below the base URL; what a probe asks for."""
    listed_as: ClassVar[tuple[str, str, str]] = ("data", "id", "has_more")
    """The keys of that list, of a model's name in it, and of what says that there is more."""
    name_prefix: ClassVar[str] = ""
    """What such a name begins with beyond the name that is asked for."""
    several: ClassVar[str] = ""
    """The key of a chunk's list of answers, where a model may give several side by side."""
    added_path: ClassVar[str] = ""
    """What a base URL is often copied with although it is added."""
    ends_with_done: ClassVar[bool] = False
    """Whether `[DONE]` ends a stream of this protocol."""
    wire: ClassVar[str] = ""
    """Tells a protocol from the provider's first one."""

    def __init__(
        self,
        source: BackendSettings,
        *,
        api_key_env: str | None,
        keys: KeyStore,
        http: HttpClients,
        clock: Clock,
    ) -> None:
        self.model = source.model or ""
        self.vision = source.vision
        self._source = source
        base_url = (source.base_url or BASE_URLS[self.provider]).strip().rstrip("/")
        self._base_url = base_url.removesuffix(self.added_path)
        self._key_env = api_key_env
        self._keys = keys
        self._opens_thoughts = bool(_OPENS_THOUGHTS.search(self.model)) and not self._at_home
        """Whether answers begin inside a block of thoughts, as is known by name or was seen."""
        self._http = http
        self._clock = clock

    @property
    def identity(self) -> str:
        """Tell provider, URL, model, key and what else is sent apart, without giving it away."""
        key = hashlib.sha256((self._key() or "").encode()).hexdigest()[:16]
        parts = [self.provider, self._base_url, self.model, key]
        parts += [self.wire] if self.wire else []
        more = (self._own_headers(), self._source.body)
        if any(more):
            parts.append(msgspec.json.encode(more, order="deterministic").decode())
        whole = "|".join(parts)
        return f"{self.provider}:{self.model}:{hashlib.sha256(whole.encode()).hexdigest()[:16]}"

    def missing(self) -> Missing | None:
        """Return the key that is not set, when it is not."""
        names = [self._key_env] if self._key_env is not None and not self._key() else []
        names += [name for name in self._source.headers_env.values() if not self._keys.get(name)]
        if not names:
            return None
        name = names[0]
        return Missing(
            what=f"{name} is not set",
            fix=f"export {name}=… or `tieredllm keys set {name}`",
            variable=name,
        )

    async def token_counter(self) -> TokenCounter:
        """Return the estimate: the vendors' tokenizers are not at hand."""
        return estimate_tokens

    def warm_up(self) -> bool:
        """Return False: a connection is made in no time."""
        return False

    async def aclose(self) -> None:  # noqa: B027 - as above
        """Do nothing: the connections belong to the manager."""

    async def answer(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Make one attempt: yield deltas, then one finish, or one request for tools.

        Raises:
            FallbackTriggerError: for every failure.
        """
        adapted = adapt_tools(call.tools, rules_of(self.provider))
        rejected_as = {told_name(tool.name): tool.rejected_as for tool in call.tools}
        choice = call.tool_choice
        if choice.name is not None:
            choice = msgspec.structs.replace(choice, name=told_name(choice.name))
        call = msgspec.structs.replace(call, tools=adapted.tools, tool_choice=choice)
        may_call = bool(call.tools) and call.tool_choice.mode != "none"
        calls = self._collect_calls(call.tools) if may_call else None

        def read(value: dict[str, Any]) -> Iterable[Part]:
            if calls is not None:
                calls.take(value)
            return map(self._parse_chunk, self._split(value))

        ask = self._build_request(call)
        info = msgspec.structs.replace(
            self._request_info(ask.path, ask.parameters),
            tools=rejected_as,
        )
        request = Request(
            method="POST",
            url=info.url,
            headers=self._all_headers(info) | {"content-type": "application/json"},
            body=msgspec.json.encode(self._with_own(ask.body)),
            connect_timeout_s=call.connect_timeout_s,
            on_sent=call.on_sent,
        )
        said: list[Said] = []
        async with self._http.send(request, info) as reply:
            if await reply.form() == "body":
                values, is_whole = self._documents(await reply.body(), info, reply)
                assembly = self._assembly(reply, info, calls, call, whole=is_whole)
                parts = (part for value in values for part in read(value))
                for number, part in enumerate(parts, 1):
                    await give_way(number)
                    said += assembly.take(part)
                said += assembly.flush()
                assembly.end()
            else:
                assembly = self._assembly(reply, info, calls, call, whole=False)
                async with aclosing(stream_chunks(reply.events(), assembly, read)) as chunks:
                    async for chunk in chunks:
                        if isinstance(chunk, Retraction):
                            self._opens_thoughts = True
                        yield chunk
        # Nothing of a document is passed on before it is known to be complete and not refused.
        finish = assembly.finish()
        for chunk in _joined(said):
            yield chunk
        if isinstance(finish, ToolRequest):
            finish = msgspec.structs.replace(finish, calls=adapted.restore(finish.calls))
        yield finish

    async def probe(self, *, deep: bool = False) -> ProbeResult:
        """List the vendor's models, which is free; or, when `deep`, ask for one real token."""
        start = self._clock.monotonic()
        limit_s = DEEP_PROBE_S if deep else PROBE_S
        try:
            async with LoopTimeout(limit_s):
                found = await (self._first_token() if deep else self._look_up())
        except TimeoutError:
            found = _failed(ErrorKind.TIMEOUT, f"no answer within {limit_s:g} s")
        except FallbackTriggerError as exc:
            found = _failed(exc.kind, exc.info.message, status=exc.info.status)
        latency_ms = (self._clock.monotonic() - start) * 1000
        return msgspec.structs.replace(found, latency_ms=latency_ms)

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the model can do, as far as its name and the profile tell."""

    @abstractmethod
    def _build_request(self, call: Call) -> WireRequest:
        """Put a call into the vendor's form."""

    @abstractmethod
    def _headers(self, info: RequestInfo) -> dict[str, str]:
        """Return the vendor's own headers, with the key in `info`."""

    @abstractmethod
    def _parse_chunk(self, value: dict[str, Any]) -> Part:
        """Read one event of a stream, or a whole answer; never fails, whatever its shape."""

    @abstractmethod
    def _collect_calls(self, tools: tuple[ToolDeclaration, ...]) -> ToolCallCollector:
        """Make what collects the calls of these tools in one answer."""

    @property
    def _at_home(self) -> bool:
        """Whether the server is the vendor's own."""
        return is_own_host(self._base_url, self.own_host)

    def _split(self, value: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return what is to be read one after the other: of several answers, each."""
        several = value.get(self.several)
        if not isinstance(several, list) or len(several) < 2:
            return (value,)
        return [{**value, self.several: [one]} for one in _numbered(several)]

    def _untold_limit(self, call: Call) -> int | None:  # noqa: ARG002
        """Return the limit of tokens where the server may not tell that it has cut an answer."""
        return None

    def _own_headers(self) -> dict[str, str]:
        """Return the profile's headers, names in lower case."""
        secret = {
            name: value
            for name, variable in self._source.headers_env.items()
            if (value := (self._keys.get(variable) or "").strip())
        }
        return {name.lower(): value for name, value in {**self._source.headers, **secret}.items()}

    def _all_headers(self, info: RequestInfo) -> dict[str, str]:
        """Return the vendor's headers, and the profile's over them."""
        vendors = {name.lower(): value for name, value in self._headers(info).items()}
        return vendors | self._own_headers()

    def _with_own(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's body with the profile's keys over it."""
        own = self._source.body
        gone = {name for name, value in own.items() if value is None}
        return {name: value for name, value in {**body, **own}.items() if name not in gone}

    def _thinks_little(self, params: Params) -> bool:
        return self._at_home and (params.max_tokens or SMALL_CAP_TOKENS) < SMALL_CAP_TOKENS

    def _key(self) -> str | None:
        key = self._keys.get(self._key_env) if self._key_env is not None else None
        # A key read from a file often ends with a newline, which no header can carry.
        return (key or "").strip() or None

    def _request_info(self, path: str, parameters: Mapping[str, str]) -> RequestInfo:
        key = self._key()
        secrets = {} if self._key_env is None else {self._key_env: key}
        secrets |= {name: self._keys.get(name) for name in self._source.headers_env.values()}
        for name, value in secrets.items():
            if not value:
                raise FallbackTriggerError(ErrorKind.AUTHENTICATION, f"{name} is not set")
            # A value read from a file often ends with a newline, which is no part of it.
            if not (value.isascii() and value.strip().isprintable()):
                raise FallbackTriggerError(
                    ErrorKind.AUTHENTICATION, f"the key in {name} has characters that no key has"
                )
        return RequestInfo(
            url=_join(self._base_url, path),
            model=self.model,
            key=key,
            key_env=self._key_env,
            secrets=tuple(value for value in secrets.values() if value),
            parameters=parameters,
        )

    def _assembly(
        self,
        reply: Reply,
        info: RequestInfo,
        calls: ToolCallCollector | None,
        call: Call,
        *,
        whole: bool,
    ) -> ResponseAccumulator:
        return ResponseAccumulator(
            classify=lambda value: self._classified(info, value, reply),
            presentable=info.presentable,
            calls=calls,
            text_calls=TextCalls(call.tools) if call.tools else None,
            held=HeldStart() if self._opens_thoughts and not whole else None,
            ends_with_done=self.ends_with_done,
            idle_s=call.idle_timeout_s,
            cut_at=self._untold_limit(call),
            status=reply.status,
            whole=whole,
        )

    def _classified(
        self, info: RequestInfo, value: Any, reply: Reply | None = None
    ) -> FallbackTriggerError:
        """Decide what an error inside a successful response means."""
        from tieredllm.providers.errors.http import classify_inside_200

        status, headers = (200, {}) if reply is None else (reply.status, reply.headers)
        return classify_inside_200(
            info, value, status=status, headers=headers, now=self._clock.wall()
        )

    def _no_json(self, body: bytes, info: RequestInfo, reply: Reply) -> FallbackTriggerError:
        """Tell what a plain text says, where it says what is wrong, or that it is no answer."""
        text = body.decode("utf-8", "replace")
        error = self._classified(info, text, reply)
        is_half = text.lstrip().startswith(("{", "["))
        if not is_half and error.kind is not ErrorKind.SERVICE_UNAVAILABLE:
            return error
        message = f"{info.host} sent an answer that is no JSON"
        return FallbackTriggerError(
            ErrorKind.MALFORMED_RESPONSE,
            info.presentable(message if is_half else f"{message}: {text}"),
            status=reply.status,
        )

    def _documents(
        self, body: bytes, info: RequestInfo, reply: Reply
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return the objects of a body, and whether they are one answer that is complete as JSON.

        Some servers end a document with `[DONE]` (decolua/9router#3492), or stream one object a
        line. Google's endpoints send errors, and streams that are not asked for as events, as
        lists.
        """
        try:
            values = [value for value in decode_all(body) if value is not DONE]
        except NotJsonError as exc:
            raise self._no_json(body, info, reply) from exc
        is_whole = len(values) == 1
        if is_whole and isinstance(values[0], list):
            values = values[0]
        return [value for value in values if isinstance(value, dict)], is_whole

    async def _look_up(self) -> ProbeResult:
        """See whether the server lists the model, and whether the key counts for that."""
        await self._check_key()
        try:
            names = await self._listed()
        except FallbackTriggerError as exc:
            if self._has_no_verdict(exc):
                return _unsure(f"it gives no list of models: {exc.info}")
            raise
        except NotJsonError:
            message = f"{self._host} sent a list of models that is no JSON"
            return _failed(ErrorKind.MALFORMED_RESPONSE, message)
        if names and not self._is_among(names):
            shown = ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")
            if self._at_home:
                return _failed(
                    ErrorKind.NOT_FOUND, f"{self._host} does not list {self.model}, but {shown}"
                )
            return _unsure(f"{self._host} lists {shown}, but not {self.model}")
        if await self._is_public():
            return _unsure("its list of models is public, which says nothing about the key")
        return _WELL

    @property
    def _host(self) -> str:
        return host_of(self._base_url) or "the server"

    async def list_models(self) -> list[str]:
        """Return the names of the models that the server offers.

        Raises:
            FallbackTriggerError: it gives no list, or cannot be reached.
        """
        try:
            names = await self._listed()
        except NotJsonError as exc:
            raise FallbackTriggerError(
                ErrorKind.MALFORMED_RESPONSE, f"{self._host} sent a list that is no JSON"
            ) from exc
        if names is None:
            raise FallbackTriggerError(
                ErrorKind.MALFORMED_RESPONSE, f"{self._host} gives no list of models"
            )
        return names

    async def _listed(self, *, with_key: bool = True) -> list[str] | None:
        """Ask for the models' names; None where they are not told as this vendor does.

        Raises:
            FallbackTriggerError: there is no list.
            NotJsonError: it is no JSON.
        """
        value = decode(await self._fetched(self.models_path, with_key=with_key))
        if (error := find_error(value)) is not None:
            raise self._classified(self._request_info(self.models_path, {}), error)
        where, name, more = self.listed_as
        models = get_path(value, where)
        if not isinstance(models, list) or get_path(value, more):
            return None
        names = (get_str(model, name) for model in models)
        return [found.removeprefix(self.name_prefix) for found in names if found]

    async def _fetched(self, path: str, *, with_key: bool = True) -> bytes:
        info = self._request_info(path, {})
        headers = self._all_headers(info)
        if not with_key:
            bare = msgspec.structs.replace(info, key=None)
            headers = self._headers(bare) | dict(self._source.headers)
        request = Request(method="GET", url=info.url, headers=headers, connect_timeout_s=PROBE_S)
        async with self._http.send(request, info) as reply:
            await reply.form()
            return await reply.body()

    def _has_no_verdict(self, error: FallbackTriggerError) -> bool:
        """Return whether an error says nothing of the model: only that there is no list of them.

        MiniMax's server has none (NousResearch/hermes-agent#12399), LiteLLM's none on Gemini's
        wire; and a key of OpenAI's may be one that only asks models, not for them.
        """
        if self._at_home:
            return error.kind is ErrorKind.PERMISSION and "issing scopes" in error.message
        return error.kind is ErrorKind.NOT_FOUND or error.status in (404, 405, 501)

    def _is_among(self, names: list[str]) -> bool:
        # Aliases are listed by their dated names, Ollama's by a tag, OpenRouter's without one; a
        # gateway may list a pattern.
        stem = self.model.removeprefix("models/").removesuffix("-latest")
        if self._at_home:
            return any(name.startswith(stem) for name in names)
        stem = stem.partition(":")[0]
        return any(stem in name or "*" in name for name in names)

    async def _check_key(self) -> None:
        """Ask OpenRouter what the key is good for; its list of models is public.

        Raises:
            FallbackTriggerError: the key is rejected.
        """
        if self._key() and is_own_host(self._base_url, OPENROUTER):
            await self._fetched(KEY_PATH)

    async def _is_public(self) -> bool:
        """Return whether the list comes without the key as well: then it says nothing of it."""
        if not self._key() or self._at_home or is_own_host(self._base_url, OPENROUTER):
            return False
        try:
            async with LoopTimeout(PROBE_S / 2):
                return bool(await self._listed(with_key=False))
        except (TimeoutError, FallbackTriggerError, NotJsonError):
            return False

    async def _first_token(self) -> ProbeResult:
        """Ask for a word and leave at its first token."""
        question = "Reply with the word OK."
        omit: frozenset[str] = frozenset()
        while True:
            call = Call(
                prompt=Prompt(question=question),
                messages=(Message("user", question),),
                params=Params(temperature=None, top_p=None, max_tokens=16),
                connect_timeout_s=PROBE_S,
                omit=omit,
                request_id="probe",
            )
            try:
                async with aclosing(self.answer(call)) as chunks:
                    await anext(chunks)
            except FallbackTriggerError as exc:
                if exc.parameter is not None and exc.parameter not in omit:
                    omit |= {exc.parameter}
                    continue
                if not exc.truncated:  # what thought for all its tokens is up
                    raise
            return _WELL


def given(options: Mapping[str, Any], omit: frozenset[str]) -> dict[str, Any]:
    """Return those parameters that have a value and are not to be left out."""
    return {name: value for name, value in options.items() if not (value is None or name in omit)}


def _numbered(several: list[Any]) -> Iterator[Any]:
    """Yield several answers, each with its number; where none is said it is the place."""
    for place, one in enumerate(several):
        yield {"index": place, **one} if isinstance(one, dict) else one


def base64_of(data: bytes) -> str:
    """Return bytes as the text that JSON holds them as."""
    return base64.b64encode(data).decode("ascii")


def _joined(said: list[Said]) -> list[Delta | ThoughtDelta]:
    """Return what a document says: thoughts, apart where they are sealed, and texts by phase."""
    runs: list[list[Delta | ThoughtDelta]] = []
    for chunk in said:
        if isinstance(chunk, Retraction):
            runs = [[_unsaid(piece) for piece in run] for run in runs]
        elif isinstance(chunk, Delta):
            last = runs[-1][-1] if runs else None
            if isinstance(last, Delta) and last.phase == chunk.phase:
                runs[-1].append(chunk)
            else:
                runs.append([chunk])
        elif isinstance(chunk, ThoughtDelta) and (chunk.text or chunk.seal is not None):
            last = runs[-1][-1] if runs else None
            if isinstance(last, ThoughtDelta) and last.seal is None:
                runs[-1].append(chunk)
            else:
                runs.append([chunk])
    return [
        msgspec.structs.replace(run[-1], text="".join(piece.text for piece in run)) for run in runs
    ]


def _unsaid(piece: Delta | ThoughtDelta) -> ThoughtDelta:
    return ThoughtDelta(piece.text) if isinstance(piece, Delta) else piece


_WELL = ProbeResult(ok=True, latency_ms=0.0)


def _failed(kind: ErrorKind, message: str, *, status: int | None = None) -> ProbeResult:
    error = str(ErrorInfo(kind=kind, message=message, status=status))
    return ProbeResult(ok=False, latency_ms=0.0, error=error, fix=FIXES.get(kind))


def _unsure(note: str) -> ProbeResult:
    fix = "tieredllm health --deep asks it for one token, which vendors bill"
    return ProbeResult(ok=True, latency_ms=0.0, note=note, fix=fix, sure=False)


def _join(base_url: str, path: str) -> str:
    """Put a path below a base URL; either may have a query."""
    base, _, base_query = base_url.partition("?")
    path, _, query = path.partition("?")
    queries = "&".join(part for part in (base_query, query) if part)
    return base.rstrip("/") + path + (f"?{queries}" if queries else "")
