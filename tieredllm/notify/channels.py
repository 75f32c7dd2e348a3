"""Know the channels of a profile, and send several messages at the same time within one bound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from tieredllm.aio import in_thread
from tieredllm.clock import Clock
from tieredllm.keys import Keys
from tieredllm.notify.message import Message
from tieredllm.notify.severity import RANKS
from tieredllm.profile.schema import Notifications

__all__ = [
    "CHANNELS",
    "Channel",
    "Delivery",
    "SendError",
    "make_channel",
    "minimum_ranks",
    "send_all",
]

CHANNELS = ("slack", "email", "webhook")
"""The channels there can be, by the names they have in a profile."""

FIRST_PAUSE_S = 0.1
"""The wait before a second try within the same run, doubled before each further one. It is for a
server that trips over one request; one that is down is for a later run."""


class SendError(Exception):
    """A message could not be delivered; the text names no URL and no secret.

    Args:
        reason: one line for people.
        again: whether another try within the second may help.
        retry_after_s: how long the receiver asked to wait.
    """

    def __init__(
        self, reason: str, *, again: bool = False, retry_after_s: float | None = None
    ) -> None:
        self.again = again
        self.retry_after_s = retry_after_s
        super().__init__(reason)


class Channel(Protocol):
    """One way to reach people or programs."""

    async def send(self, message: Message, *, within_s: float) -> str | None:
        """Deliver one message; when it is cancelled, the connection is broken off at once.

        Args:
            message: what to say.
            within_s: seconds until it will be cancelled.

        Returns:
            A remark for people, where there is one.

        Raises:
            SendError: it has not arrived, as far as one can tell.
        """
        ...


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one message."""

    channel: str
    cause: str
    error: str | None = None
    """Why it has not arrived; None when it has."""
    retry_after_s: float | None = None
    """Seconds the receiver asked to wait."""
    remark: str | None = None
    """For people, where there is something to say."""


def minimum_ranks(settings: Notifications) -> dict[str, int]:
    """Return the least rank of each channel that a profile has."""
    return {
        name: RANKS[channel.min_severity]
        for name in CHANNELS
        if (channel := getattr(settings, name)) is not None
    }


def make_channel(name: str, settings: Notifications, keys: Keys, clock: Clock) -> Channel:
    """Make one channel; only its own module is loaded for it.

    Raises:
        ValueError: the profile has no such channel.
    """
    if name == "slack" and settings.slack is not None:
        from tieredllm.notify.slack import SlackChannel

        return SlackChannel(settings.slack, keys)
    if name == "email" and settings.email is not None:
        from tieredllm.notify.email import EmailChannel

        return EmailChannel(settings.email, keys, clock)
    if name == "webhook" and settings.webhook is not None:
        from tieredllm.notify.webhook import WebhookChannel

        return WebhookChannel(settings.webhook, keys, clock)
    raise ValueError(name)


async def send_all(
    messages: Sequence[tuple[str, Message]], make: Callable[[str], Channel], *, within_s: float
) -> list[Delivery]:
    """Send messages at the same time; those that have not arrived in time are broken off.

    Args:
        messages: what to send, each with its channel's name.
        make: makes a channel by its name; on a thread, for its modules take time to load.
        within_s: seconds for all of them together.

    Returns:
        One for each, in their order. Nothing is raised for any of them.
    """
    sending = (_send(channel, message, make, within_s) for channel, message in messages)
    return await asyncio.gather(*sending)


async def _send(
    name: str, message: Message, make: Callable[[str], Channel], within_s: float
) -> Delivery:
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    pause_s = FIRST_PAUSE_S
    error, remark = None, None
    try:
        async with asyncio.timeout_at(until):
            channel = await in_thread(lambda: make(name), name="tieredllm-notify")
            while True:
                try:
                    remark = await channel.send(message, within_s=until - loop.time())
                    break
                except SendError as exc:
                    wait_s = max(pause_s, exc.retry_after_s or 0.0)
                    if not exc.again or loop.time() + 2 * wait_s >= until:
                        raise
                await asyncio.sleep(wait_s)
                pause_s *= 2
    except SendError as exc:
        error = exc
    except TimeoutError:
        error = SendError(f"not accepted within {within_s:.1f} s")
    except Exception as exc:  # noqa: BLE001 - nothing of a channel may reach the answer
        error = SendError(f"unexpected {type(exc).__name__}")
    return Delivery(
        channel=name,
        cause=message.cause,
        error=None if error is None else str(error),
        retry_after_s=None if error is None else error.retry_after_s,
        remark=remark,
    )
