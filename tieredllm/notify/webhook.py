"""Send messages as JSON to a program of the user's.

The body is one object: a message's fields and its details', beside each other. With a secret in the
profile it is signed::

    X-Tieredllm-Signature: sha256=<HMAC-SHA256 (RFC 2104) of the raw body, in lower-case hex>

`sent_at` is in the body, and so under the signature: a receiver that takes nothing older than some
minutes, and no `id` twice, cannot be fooled by a replay. A message keeps its `id` on every try
(also as `X-Tieredllm-Id`), so that one whose first delivery was not acknowledged is known again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tieredllm.clock import Clock, iso
from tieredllm.keys import Keys
from tieredllm.notify.channels import SendError
from tieredllm.notify.http_post import post, web_address
from tieredllm.notify.message import Message
from tieredllm.profile.schema import Webhook

__all__ = ["WebhookChannel", "body_of", "signature"]


class WebhookChannel:
    """A program that gets JSON.

    Args:
        settings: where it is.
        keys: where its URL and the secret are looked up.
        clock: the time that is signed.
    """

    def __init__(self, settings: Webhook, keys: Keys, clock: Clock) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock

    async def send(self, message: Message, *, within_s: float) -> str | None:  # noqa: ARG002
        """Post one message; see `channels.Channel`."""
        url = web_address(self._keys.get(self._settings.url_env), self._settings.url_env)
        body = msgspec.json.encode(body_of(message, sent_at=self._clock.wall()))
        headers = {"X-Tieredllm-Event": message.event, "X-Tieredllm-Id": message.id}
        variable = self._settings.secret_env
        if variable is not None:
            secret = self._keys.get(variable)
            if secret is None:
                raise SendError(f"{variable} is not set, and nothing is sent unsigned")
            headers["X-Tieredllm-Signature"] = signature(secret, body)
        await post(url, body, headers)
        return None


def body_of(message: Message, *, sent_at: float) -> dict[str, Any]:
    """Return what the receiver gets; its times are ISO 8601 in UTC.

    Args:
        message: what to say.
        sent_at: when this try is made, seconds since the epoch.
    """
    value: dict[str, Any] = msgspec.to_builtins(message)
    details = value.pop("details")
    return {
        **value,
        "held_back": message.held_back,
        "first_at": iso(message.first_at),
        "last_at": iso(message.last_at),
        "sent_at": iso(sent_at),
        **details,
        "ended": [{**over, "since": iso(over["since"])} for over in value["ended"]],
    }


def signature(secret: str, body: bytes) -> str:
    """Return the value of `X-Tieredllm-Signature`."""
    import hmac

    return f"sha256={hmac.digest(secret.encode(), body, 'sha256').hex()}"
