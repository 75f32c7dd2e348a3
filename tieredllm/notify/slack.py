"""Send messages to a Slack channel through an incoming webhook, laid out with Block Kit.

Any status but 200 is an error, with its name as the body
(https://api.slack.com/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks). Limits of the
blocks: 150 characters in a header, 10 fields in a section with 2000 characters each, 3000
characters in a section's text (https://docs.slack.dev/reference/block-kit/blocks).
"""

from __future__ import annotations

from typing import Any

import msgspec

from tieredllm.keys import Keys
from tieredllm.notify.http_post import post, web_address
from tieredllm.notify.message import Message, error_of, facts, headline
from tieredllm.profile.schema import Slack

__all__ = ["SlackChannel", "payload"]

MAX_FIELDS = 10
MAX_FIELD_CHARACTERS = 2000
MAX_TEXT_CHARACTERS = 2900

_SIGNS = {"high": "🔴", "medium": "🟠", "low": "🟡"}


class SlackChannel:
    """A Slack channel.

    Args:
        settings: where it is.
        keys: where the webhook's URL is looked up.
    """

    def __init__(self, settings: Slack, keys: Keys) -> None:
        self._settings = settings
        self._keys = keys

    async def send(self, message: Message, *, within_s: float) -> str | None:  # noqa: ARG002
        """Post one message; see `channels.Channel`."""
        variable = self._settings.webhook_env
        url = web_address(self._keys.get(variable), variable)
        body = msgspec.json.encode(payload(message, channel=self._settings.channel))
        await post(url, body)
        return None


def payload(message: Message, *, channel: str | None = None) -> dict[str, Any]:
    """Return the JSON value of one message.

    Args:
        message: what to say.
        channel: the channel to name; None for the webhook's own.
    """
    title = f"{_sign(message)} {headline(message)}"
    fields = [
        {"type": "mrkdwn", "text": f"*{_escaped(label)}*\n{_escaped(value)}"[:MAX_FIELD_CHARACTERS]}
        for label, value in facts(message)
    ]
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title, "emoji": True}},
    ]
    blocks += [
        {"type": "section", "fields": fields[start : start + MAX_FIELDS]}
        for start in range(0, len(fields), MAX_FIELDS)
    ]
    error = error_of(message)
    if error:
        # Plain text: what a server says must neither be laid out nor mention anybody.
        text = {"type": "plain_text", "text": error[:MAX_TEXT_CHARACTERS], "emoji": False}
        blocks.append({"type": "section", "text": text})
    blocks.append(
        {
            "type": "context",
            "elements": [{"type": "plain_text", "text": f"tieredllm, message {message.id}"}],
        }
    )
    value: dict[str, Any] = {"text": _escaped(title), "blocks": blocks}
    return value if channel is None else {"channel": channel, **value}


def _sign(message: Message) -> str:
    return "🟢" if message.event != "fallback" else _SIGNS[message.severity]


def _escaped(text: str) -> str:
    """Escape Slack's three control characters; no mention or link is made of what is left.

    See https://docs.slack.dev/messaging/formatting-message-text, "Escaping text".
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
