"""Define what a channel does, and make the channels of a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tieredllm.clock import Clock
from tieredllm.keys import Keys
from tieredllm.notify.severity import RANKS
from tieredllm.profile.schema import Notifications

if TYPE_CHECKING:
    from tieredllm.notify.line import Line
    from tieredllm.notify.message import Message

__all__ = ["CHANNELS", "Sink", "make_sink", "minimum_ranks"]

CHANNELS = ("slack", "email", "webhook")
"""The channels there can be, by the names they have in a profile."""


class Sink(Protocol):
    """Be one channel."""

    def send(self, message: Message, line: Line) -> str | None:
        """Deliver one message; blocks, on a thread of its own.

        Args:
            message: what to say.
            line: the time there is, and who may break the connection off.

        Returns:
            A remark for people, where there is one.

        Raises:
            SendError: it has not arrived, as far as one can tell.
        """
        ...


def minimum_ranks(settings: Notifications) -> dict[str, int]:
    """Give the least rank of each channel that a profile has."""
    channels = {"slack": settings.slack, "email": settings.email, "webhook": settings.webhook}
    return {
        name: RANKS[channel.min_severity]
        for name, channel in channels.items()
        if channel is not None
    }


def make_sink(name: str, settings: Notifications, keys: Keys, clock: Clock) -> Sink:
    """Make one channel; only its own module is loaded for it.

    Raises:
        ValueError: the profile has no such channel.
    """
    if name == "slack" and settings.slack is not None:
        from tieredllm.notify.slack import SlackSink

        return SlackSink(settings.slack, keys)
    if name == "email" and settings.email is not None:
        from tieredllm.notify.email import EmailSink

        return EmailSink(settings.email, keys, clock)
    if name == "webhook" and settings.webhook is not None:
        from tieredllm.notify.webhook import WebhookSink

        return WebhookSink(settings.webhook, keys, clock)
    raise ValueError(name)
