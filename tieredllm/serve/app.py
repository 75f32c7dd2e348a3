"""Answer HTTP requests: who is let in, which protocol it is, and what becomes of the client.

Plain ASGI (https://asgi.readthedocs.io/en/stable/specs/www.html); whatever serves it needs no
lifespan. Every request is checked in the same order: host, origin, key, path.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tieredllm.client import FallbackManager
from tieredllm.lenient_json import NotJsonError, decode_sent
from tieredllm.serve.answering import Answering
from tieredllm.serve.chat import ChatWire
from tieredllm.serve.exchange import (
    BrokenOffError,
    Exchange,
    LostError,
    Receive,
    Send,
    StoppedError,
)
from tieredllm.serve.messages import MessagesWire
from tieredllm.serve.metrics import Metrics
from tieredllm.serve.responses import ResponsesWire
from tieredllm.serve.wire import RefusedError, Wire, encode
from tieredllm.text import printable_line

__all__ = ["Gateway", "is_loopback"]

MAX_BODY_BYTES = 32 * 2**20
"""The largest body that is read (contract, section 13); Anthropic's own limit, too."""
BODY_S = 60.0
"""How long a body may take to come, in seconds."""
MODELS = ("tieredllm", "auto")
"""The names that mean all tiers."""

CHAT, MESSAGES, RESPONSES = ChatWire(), MessagesWire(), ResponsesWire()
POSTS: dict[str, tuple[str, Wire]] = {
    "/v1/chat/completions": ("chat", CHAT),
    "/v1/messages": ("messages", MESSAGES),
    "/v1/responses": ("responses", RESPONSES),
}
COUNT_TOKENS = "/v1/messages/count_tokens"
MAX_SHOWN_CHARS = 80
"""How much is told of a client's own words: its name, a path that is not known."""
MAX_NAMED = 50
"""How many types of tools that are left out are named."""
ANYBODY = frozenset({"/livez", "/readyz"})
"""What answers without a key, for those who only watch over the process."""


def is_loopback(host: str) -> bool:
    """Return whether an address, or a name, can only be this machine itself."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gateway:
    """The ASGI application: one manager, and the requests that it is answering.

    Args:
        manager: what answers.
        host: the address that is listened on.
        keys: what clients have to show one of; none is asked for when it is empty.
        max_requests: how many requests are answered at the same time.
        strict_models: whether an unknown model's name is refused.
        require_llm: whether an answer by rules is a failure, also where the profile takes it.
        report: takes a line about what is out of the ordinary.
        tell: takes a line about each request when it has ended: an object of JSON, without any of
            the request's text.
    """

    def __init__(
        self,
        manager: FallbackManager,
        *,
        host: str = "127.0.0.1",
        keys: Iterable[str] = (),
        max_requests: int = 64,
        strict_models: bool = False,
        require_llm: bool = False,
        report: Callable[[str], None] = lambda _: None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.manager = manager
        self.report = report
        self._tell = tell
        self.settings = manager.profile.serve
        self.metrics = Metrics()
        self.draining = False
        self.running: set[Exchange] = set()
        self._max_requests = max_requests
        self._strict_models = strict_models
        self._require_llm = require_llm or manager.profile.require_llm
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._left_out: set[str] = set()
        self._is_local = is_loopback(host)
        self._hosts = {host.lower(), *(name.lower() for name in self.settings.hosts)}
        if not self._is_local:
            self._hosts |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._origins = {origin.rstrip("/").lower() for origin in self.settings.origins}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.monotonic()
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        http = Exchange(
            version=scope["http_version"],
            method=scope["method"],
            path=scope["path"],
            headers=headers,
            request_id=os.urandom(16).hex(),
            receive=receive,
            send=send,
        )
        try:
            self._check_host(http)
            http.extra_headers = self._cors(http)
            if http.method == "OPTIONS" and http.extra_headers:
                await http.respond(204, b"")
                return
            self._check_key(http)
            await self._route(http)
        except RefusedError as exc:
            http.outcome = http.outcome or "refused"
            await self._refuse(http, exc)
        except LostError:
            return
        except Exception as exc:  # noqa: BLE001 - a bug must not take the other requests away
            self.report(f"tieredllm: unexpected {type(exc).__name__}: {exc}")
            if not http.is_open:
                message = f"unexpected {type(exc).__name__} in the gateway"
                await self._refuse(http, RefusedError(500, message))
        finally:
            if self._tell is not None and http.outcome is not None:
                took_s = time.monotonic() - began - http.lingered_s
                self._tell(self._line(http, took_s * 1000))

    def _line(self, http: Exchange, took_ms: float) -> str:
        """Return what is told of a request that has ended: who asked, who answered, how long."""
        answer, last = http.answer, next(reversed(http.attempts), None)
        facts: dict[str, Any] = {
            "id": http.request_id,
            "request": http.protocol or printable_line(http.path, MAX_SHOWN_CHARS),
            "outcome": http.outcome,
            "status": http.status,
            "ms": round(took_ms),
            "attempts": len(http.attempts) or None,
            "tier": last and last.tier,
            "model": last and last.model,
            "prompt_tokens": answer and answer.usage.prompt_tokens,
            "completion_tokens": answer and answer.usage.completion_tokens,
            "client": printable_line(http.headers.get("user-agent", ""), MAX_SHOWN_CHARS),
        }
        return encode({name: fact for name, fact in facts.items() if fact is not None}).decode()

    async def stop(self, message: str) -> None:
        """End the requests that are being answered, each with its protocol's error.

        Args:
            message: why, for the clients.
        """
        running = [*self.running]
        for http in running:
            http.stop(message)
        await asyncio.gather(*(http.ended.wait() for http in running))

    async def _route(self, http: Exchange) -> None:
        path, method = http.path, http.method
        if path in POSTS:
            if http.headers.get("upgrade", "").lower() == "websocket":
                # Codex then goes on by POST at once; after a 404 it tries seven times.
                reason = "no WebSocket here: POST this path"
                raise RefusedError(426, reason, headers=[("upgrade", "HTTP/1.1")])
            self._only(http, "POST")
            name, wire = POSTS[path]
            await self._admit(http, name, lambda: self._answer(http, wire))
        elif path == COUNT_TOKENS:
            self._only(http, "POST")
            await self._admit(http, "count_tokens", lambda: self._count(http))
        elif path == "/" and method == "HEAD":
            await http.respond(200, b"")
        elif path == "/livez":
            self._only(http, "GET", "HEAD")
            await http.respond(200, {"status": "alive"})
        elif path == "/readyz":
            self._only(http, "GET", "HEAD")
            why = self._not_ready()
            status = {"status": "ready"} if why is None else {"status": "not ready", "reason": why}
            await http.respond(200 if why is None else 503, status)
        elif path == "/health":
            self._only(http, "GET", "HEAD")
            report = await self.manager.check(probe=False)
            await http.respond(503 if report.status == "down" else 200, encode(report))
        elif path == "/metrics":
            self._only(http, "GET", "HEAD")
            await http.respond(200, self.metrics.text(), self.metrics.content_type)
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            self._only(http, "GET", "HEAD")
            await http.respond(200, self._models(http))
        else:
            hint = "OpenAI clients take .../v1 as their base URL, Anthropic's the address alone"
            if path.startswith("/v1/") and not path.startswith("/v1/v1/"):
                hint = f"served are {', '.join(POSTS)} and /v1/models"
            raise RefusedError(404, f"there is nothing at {method} {path}: {hint}")

    async def _admit(self, http: Exchange, name: str, work: Callable[[], Awaitable[str]]) -> None:
        """Do a request's work for as long as its client is there, if there is room for it.

        Args:
            http: the request.
            name: its protocol.
            work: answers it and returns how that ended.
        """
        outcome = "failed"
        http.protocol = name
        self.running.add(http)
        self.metrics.running.inc()
        try:
            self._check_room()
            outcome = await work()
        except RefusedError:
            outcome = "refused"
            raise
        except BrokenOffError:
            outcome = "broken_off"
            raise
        except LostError:
            outcome = "client_gone"
            raise
        except StoppedError as exc:
            outcome = "stopped"
            raise RefusedError(503, str(exc), headers=[("retry-after", "1")]) from exc
        finally:
            self.metrics.requests.labels(name, outcome).inc()
            self.metrics.running.dec()
            self.running.discard(http)
            http.ended.set()
            http.outcome = outcome

    def _check_room(self) -> None:
        """Refuse a request while the gateway ends, or has enough to do.

        A request whose response is complete takes no room, though it may still be tidying up.
        """
        message = ""
        busy = sum(not http.is_closed for http in self.running) - 1
        if self.draining:
            message = "the gateway is shutting down"
        elif busy >= self._max_requests:
            message = f"{busy} requests are being answered; try again in a second"
        if message:
            raise RefusedError(503, message, headers=[("retry-after", "1")])

    async def _answer(self, http: Exchange, wire: Wire) -> str:
        body = await self._json(http)
        request = wire.read(body)
        self._name_left_out(request.left_out)
        start = self._start(request.model)
        options = msgspec.structs.replace(
            request.options, start=start, require_llm=self._require_llm
        )
        request = msgspec.structs.replace(request, options=options)
        wanted = http.headers.get("x-tieredllm-stream", self.settings.stream)
        # HTTP/1.0, which nginx speaks to what is behind it before 1.29.7, has no broken bodies:
        # https://nginx.org/en/CHANGES-1.30, "Changes with nginx 1.29.7"
        may_break = http.version != "1.0"
        # Whether an answer fits its schema is known at its end.
        live = wanted != "complete" and may_break and request.options.schema is None
        answering = Answering(
            self.manager,
            wire,
            request,
            http,
            hold_s=self.settings.hold_s,
            live=live,
        )
        try:
            return await http.attended(answering.run, answering.stopped)
        finally:
            http.attempts, http.answer = answering.attempts, answering.answer
            self.metrics.observe(http.attempts, http.answer)

    def _name_left_out(self, types: Iterable[str]) -> None:
        """Say once of each type of tools that it is left out, so that nobody looks for it."""
        for name in types:
            if name not in self._left_out and len(self._left_out) < MAX_NAMED:
                self._left_out.add(name)
                shown = printable_line(name, MAX_SHOWN_CHARS)
                reason = "only their vendor's own models know them"
                self.report(f"tieredllm: tools of type {shown} are left out: {reason}")

    async def _count(self, http: Exchange) -> str:
        """Estimate a request's tokens: no model is loaded or asked for it."""
        tokens = MESSAGES.count(await self._json(http))
        await http.respond(200, {"input_tokens": tokens})
        return "ok"

    async def _json(self, http: Exchange) -> dict[str, Any]:
        """Read a request's body.

        Raises:
            RefusedError: it is no JSON object, too large or too slow, or not called JSON: a page in
                a browser can send text anywhere, but not JSON without being asked about it.
        """
        media_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise RefusedError(415, "the content-type has to be application/json")
        if http.headers.get("content-encoding", "identity") != "identity":
            raise RefusedError(415, "the body has to be sent as it is, not compressed")
        raw = await http.body(max_bytes=MAX_BODY_BYTES, within_s=BODY_S)
        try:
            body = decode_sent(raw)
        except NotJsonError as exc:
            raise RefusedError(400, f"the body is not JSON: {exc}") from exc
        if not isinstance(body, dict):
            raise RefusedError(400, "the body has to be a JSON object")
        return body

    def _start(self, model: str) -> str | None:
        """Return the tier at which a request for a model starts; None for the first.

        Raises:
            RefusedError: the name is unknown, and unknown ones are refused.
        """
        if model in MODELS:
            return None
        tier = self.manager.profile.tier_meant(model)
        if tier is None and self._strict_models:
            message = f"there is no model {model!r}: GET /v1/models lists those there are"
            raise RefusedError(404, message, code="model_not_found")
        return tier

    def _models(self, http: Exchange) -> dict[str, Any]:
        names = [MODELS[0], *(tier.name for tier in self.manager.profile.tiers)]
        names += [name for name in self.settings.models if not set(name) & set("*?[")]
        names = list(dict.fromkeys(names))
        one = http.path.removeprefix("/v1/models").removeprefix("/")
        if one and one not in names:
            self._start(one)
            names.append(one)  # any other name is answered by all tiers
        if _is_anthropic(http):
            listed: list[dict[str, Any]] = [
                {
                    "type": "model",
                    "id": name,
                    "display_name": name,
                    "created_at": "2026-01-01T00:00:00Z",
                }
                for name in names
            ]
            page = {"data": listed, "has_more": False, "first_id": names[0], "last_id": names[-1]}
        else:
            owner = "tieredllm"
            listed = [
                {"id": name, "object": "model", "created": 1767225600, "owned_by": owner}
                for name in names
            ]
            page = {"object": "list", "data": listed}
        if not one:
            return page
        return next(entry for entry in listed if entry["id"] == one)

    def _not_ready(self) -> str | None:
        """Return why no request could be answered now; None when one could."""
        if self.draining:
            return "the gateway is shutting down"
        if not self._require_llm and not all(p.is_language_model for p in self.manager.plans):
            return None
        models = [plan for plan in self.manager.plans if plan.is_language_model]
        if any(backend.missing() is None for plan in models for backend in plan.backends):
            return None
        return "no language model is configured"

    def _check_host(self, http: Exchange) -> None:
        """Refuse what was meant for another host: a name that somebody lets point to us.

        An address cannot be such a name; where only this machine is listened to, it has to be one
        of this machine itself.
        """
        given = http.headers.get("host", "")
        try:
            host = (urlsplit(f"//{given}").hostname or "") if "@" not in given else ""
        except ValueError:
            host = ""
        host = host.removesuffix(".")  # the root of all names, which may be written
        if is_loopback(host) or host in self._hosts:
            return
        if not self._is_local and _is_address(host):
            return
        reason = "name it in the profile as `serve: {hosts: [...]}` if it is this gateway's"
        raise RefusedError(403, f"the host {given[:100]!r} is not this gateway: {reason}")

    def _cors(self, http: Exchange) -> list[tuple[str, str]]:
        """Return the headers that let a listed page read the answer; none without an origin.

        Raises:
            RefusedError: the request comes from a page that is not listed.
        """
        origin = http.headers.get("origin")
        if origin is None:
            return []
        at_home = origin.partition("://")[2] == http.headers.get("host")
        if origin.lower() not in self._origins and not at_home:
            reason = "list it in the profile as `serve: {origins: [...]}` to let its pages in"
            raise RefusedError(403, f"the origin {origin[:100]!r} is not let in: {reason}")
        return [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", "GET, POST, HEAD, OPTIONS"),
            (
                "access-control-allow-headers",
                http.headers.get("access-control-request-headers", "authorization, content-type"),
            ),
            ("access-control-expose-headers", "*"),
            ("access-control-max-age", "600"),
            ("vary", "origin"),
        ]

    def _check_key(self, http: Exchange) -> None:
        """Refuse a request that needs a key and shows none of ours.

        All keys are compared, each in constant time, so that time tells nothing.
        """
        open_to_all = http.path in ANYBODY or (http.path == "/" and http.method == "HEAD")
        if not self._keys or open_to_all:
            return
        scheme, _, token = http.headers.get("authorization", "").partition(" ")
        shown = [http.headers.get("x-api-key", "")]
        if scheme.lower() == "bearer":
            shown.append(token.strip())
        digests = [hashlib.sha256(key.encode()).digest() for key in shown if key]
        fits = [hmac.compare_digest(digest, key) for digest in digests for key in self._keys]
        if not any(fits):
            what = "the key is not one of this gateway's" if digests else "a key is needed"
            message = f"{what}: send it as `Authorization: Bearer` or `x-api-key`"
            raise RefusedError(401, message, headers=[("www-authenticate", "Bearer")])

    def _only(self, http: Exchange, *methods: str) -> None:
        if http.method not in methods:
            message = f"{http.path} takes {' and '.join(methods)}, not {http.method}"
            raise RefusedError(405, message, headers=[("allow", ", ".join(methods))])

    async def _refuse(self, http: Exchange, refused: RefusedError) -> None:
        wire: Wire = MESSAGES if _is_anthropic(http) else CHAT
        headers = dict(refused.headers)
        if not any(name == "retry-after" for name in headers):
            # Both SDKs ask again after a 4xx or a 5xx of some kinds unless they are told not to.
            headers["x-should-retry"] = "false"
        await http.respond(
            refused.status,
            wire.error(refused.status, refused.message, refused.code),
            headers=[*headers.items()],
        )


def _is_anthropic(http: Exchange) -> bool:
    """Return whether a client speaks Anthropic's protocol."""
    return http.path.startswith("/v1/messages") or "anthropic-version" in http.headers


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
