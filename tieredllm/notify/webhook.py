"""Send messages as JSON to a program of the user's.

The body is one object, the fields of `Body`. With a secret in the profile it is signed::

    X-Tieredllm-Signature: sha256=<HMAC-SHA256 (RFC 2104) of the raw body, in lower-case hex>

`sent_at` is in the body, and so under the signature: a receiver that takes nothing older than some
minutes, and no `id` twice, cannot be fooled by a replay. A message keeps its `id` on every try
(also as `X-Tieredllm-Id`), so that one whose first delivery was not acknowledged is known again.
"""

from __future__ import annotations

import msgspec

from tieredllm.clock import Clock, iso
from tieredllm.keys import Keys
from tieredllm.notify.http_post import post, web_address
from tieredllm.notify.line import Line, SendError
from tieredllm.notify.message import Event, Message, Step
from tieredllm.notify.severity import Severity
from tieredllm.profile.schema import Webhook

__all__ = ["Body", "WebhookSink", "body_of", "signature"]


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """Hold an incident that is over."""

    cause: str
    severity: Severity
    count: int
    since: str


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what the receiver gets. Times are ISO 8601 in UTC."""

    id: str
    event: Event
    severity: Severity
    cause: str
    profile: str
    count: int
    """How many requests the message stands for."""
    held_back: int
    """How many of them got no message of their own."""
    first_at: str
    last_at: str
    sent_at: str
    """When this try was made."""
    tier: str | None
    fallback_level: int | None
    provider: str | None
    model_used: str | None
    request_id: str | None
    ref_code: str | None
    intent: str | None
    original_error: str | None
    attempts: tuple[Step, ...]
    ended: tuple[Over, ...]
    """Of a recovery: what is over."""


class WebhookSink:
    """Be a program that gets JSON.

    Args:
        settings: where it is.
        keys: where its URL and the secret are looked up.
        clock: the time that is signed.
    """

    def __init__(self, settings: Webhook, keys: Keys, clock: Clock) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock

    def send(self, message: Message, line: Line) -> str | None:
        """Post one message; see `sinks.Sink`."""
        url = web_address(self._keys.get(self._settings.url_env), self._settings.url_env)
        body = msgspec.json.encode(body_of(message, sent_at=self._clock.wall()))
        headers = {"X-Tieredllm-Event": message.event, "X-Tieredllm-Id": message.id}
        variable = self._settings.secret_env
        if variable is not None:
            secret = self._keys.get(variable)
            if secret is None:
                raise SendError(f"{variable} is not set, and nothing is sent unsigned")
            headers["X-Tieredllm-Signature"] = signature(secret, body)
        post(url, body, line, headers)
        return None


def body_of(message: Message, *, sent_at: float) -> Body:
    """Give what the receiver gets.

    Args:
        message: what to say.
        sent_at: seconds since the epoch.
    """
    details = message.details
    return Body(
        id=message.id,
        event=message.event,
        severity=message.severity,
        cause=message.cause,
        profile=message.profile,
        count=message.count,
        held_back=message.held_back,
        first_at=iso(message.first_at),
        last_at=iso(message.last_at),
        sent_at=iso(sent_at),
        tier=details.tier,
        fallback_level=details.fallback_level,
        provider=details.provider,
        model_used=details.model_used,
        request_id=details.request_id,
        ref_code=details.ref_code,
        intent=details.intent,
        original_error=details.original_error,
        attempts=details.attempts,
        ended=tuple(
            Over(
                cause=over.cause,
                severity=over.severity,
                count=over.count,
                since=iso(over.since),
            )
            for over in message.ended
        ),
    )


def signature(secret: str, body: bytes) -> str:
    """Give the value of `X-Tieredllm-Signature`."""
    import hmac

    return f"sha256={hmac.digest(secret.encode(), body, 'sha256').hex()}"
