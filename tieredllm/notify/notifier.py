"""Note what an answer gives cause to tell, and deliver it once the answer is out.

`note` only judges and remembers; the outbox and the network wait for `deliver`. For a profile
without channels, nothing here does anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from tieredllm.clock import Clock
from tieredllm.keys import Keys
from tieredllm.notify.channels import make_channel, minimum_ranks, send_all
from tieredllm.notify.message import Details, Message, details_of, message_of, redact_details
from tieredllm.notify.severity import RANKS, Finding, finding, is_first_tier
from tieredllm.profile.schema import Notifications
from tieredllm.store.outbox import Outbox, Sent
from tieredllm.store.outbox_entry import Claimed, Note, noted
from tieredllm.types import Answer

if TYPE_CHECKING:
    from tieredllm.notify.channels import Channel, Delivery

__all__ = ["Notifier"]

PUT_SHARE = 0.6
"""The share of the time in which a locked outbox is tried again; then messages go without it."""

SETTLE_S = 0.1
"""Seconds kept for noting what came of it: the longest that a locked database is waited for."""

LAST_WAIT_S = 0.5
"""How long it is waited for once more: what stays claimed is sent again when the lease is over."""

LEASE_MARGIN_S = 10.0
"""How much longer than the sending a lease lasts, so that none ends while its message is on the
way."""

SHORTEST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.06
"""Between which the pause is chosen by chance: never two processes for the same time, and not so
often that they keep each other from the work."""

MOST_CAUSES = 100
"""How many different ones are held; more than that says nothing more."""

Key = tuple[str, str]
"""Channel and cause."""

T = TypeVar("T")


class Notifier:
    """Tell the channels of a profile what its answers give cause to.

    Args:
        settings: the profile's channels.
        keys: where webhook URLs and passwords are looked up, when they are needed.
        outbox: what is shared with the user's other processes.
        clock: the time.
        profile_name: whose answers they are.
    """

    def __init__(
        self,
        settings: Notifications,
        keys: Keys,
        outbox: Outbox,
        clock: Clock,
        profile_name: str,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._outbox = outbox
        self._clock = clock
        self._profile = profile_name
        self._ranks = minimum_ranks(settings)
        self._pending = _Pending(self._ranks)
        self._back: Details | None = None
        """Of the latest answer, if the first tier that is configured gave it."""

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels the profile has."""
        return tuple(self._ranks)

    def note(self, answer: Answer) -> None:
        """Remember what an answer gives cause to tell; takes microseconds and never raises."""
        if not self._ranks:
            return
        found = finding(answer)
        if found is None:
            if is_first_tier(answer):
                self._back = details_of(answer)
            return
        self._back = None
        self._pending.add(found, details_of(answer))

    def save(self) -> bool:
        """Put what was noted into the outbox, for whichever run delivers next; never raises.

        `deliver` does it too: this is for a run that has no time left for that.

        Returns:
            Whether nothing is left to put.
        """
        if not self._ranks or not (self._pending or self._back):
            return True
        try:
            return self._put()
        except Exception:  # noqa: BLE001 - a notification may never fail an answer
            return False

    async def deliver(self, within_s: float = 2.0, *, patient: bool = True) -> None:
        """Send what is due, all at the same time; what does not arrive stays for a later run.

        Never raises. Where the outbox cannot be used, what was noted is sent without it.

        Args:
            within_s: seconds until the end, whatever the channels do.
            patient: whether what waits for another try is left waiting.
        """
        if not self._ranks:
            return
        # Whatever it is: a notification may never fail an answer.
        with contextlib.suppress(Exception):
            await self._deliver(within_s, patient=patient)

    async def flush(self, within_s: float = 10.0) -> list[Delivery]:
        """Send now what waits for another try, too; what the interval holds back stays.

        Args:
            within_s: seconds until the end.

        Returns:
            What came of each message.
        """
        return await self._deliver(within_s, patient=False) if self._ranks else []

    async def send_test(self, channels: Sequence[str], within_s: float = 10.0) -> list[Delivery]:
        """Send a test message to some channels, past the outbox.

        Args:
            channels: some of `self.channels`.
            within_s: seconds until the end.

        Returns:
            What came of each, in their order.
        """
        now = self._clock.wall()
        message = Message(
            id=_new_id(),
            event="test",
            severity="low",
            cause="test",
            profile=self._profile,
            count=1,
            first_at=now,
            last_at=now,
            details=Details(),
        )
        return await self._send_messages([(channel, message) for channel in channels], within_s)

    def _put(self) -> bool:
        """Put what was noted into the outbox; what fails is kept."""
        if self._pending:
            if not self._outbox.put(self._profile, self._pending.notes()):
                return False
            self._pending.clear()
        return self._put_back()

    def _put_back(self) -> bool:
        """Put into the outbox that the first tier is back, where an alert is open."""
        if self._back is not None:
            entries = self._outbox.entries(self._profile)
            if any(entry.is_open and entry.channel in self._ranks for entry in entries):
                body = msgspec.json.encode(redact_details(self._back)).decode()
                if not self._outbox.recover(self._profile, self._ranks, body):
                    return False
            self._back = None
        return True

    async def _deliver(self, within_s: float, *, patient: bool) -> list[Delivery]:
        import asyncio

        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        if not self._pending and not self._outbox.has_work(
            self._profile, self._ranks, is_back=self._back is not None, patient=patient
        ):
            self._back = None
            return []
        claims = await self._claim(within_s, patient=patient)
        if claims is None:
            return await self._send_unstored(until)
        left_s = max(until - loop.time() - min(SETTLE_S, within_s / 4), 0.0)
        try:
            deliveries = await self._send(claims, left_s)
        except BaseException:
            self._settle([Sent(claimed=each, error="sending was broken off") for each in claims])
            raise
        results = [
            Sent(claimed=claimed, error=each.error, retry_after_s=each.retry_after_s)
            for claimed, each in zip(claims, deliveries, strict=True)
        ]
        if not await _retry_until(lambda: self._settle(results) or None, until - SETTLE_S):
            self._settle(results, wait_s=LAST_WAIT_S)
        left_s = until - loop.time()
        if self._back is not None and left_s > 2 * SETTLE_S:
            # What has just been delivered is over already.
            deliveries += await self._deliver(left_s, patient=patient)
        return deliveries

    async def _claim(self, within_s: float, *, patient: bool) -> list[Claimed] | None:
        """Put what was noted into the outbox and take what is due; None when it is locked."""
        import asyncio

        def attempt() -> list[Claimed] | None:
            if not self._pending and not self._put_back():
                return None
            claims = self._outbox.claim(
                self._profile,
                self._ranks,
                notes=self._pending.notes(),
                lease_s=within_s + LEASE_MARGIN_S,
                patient=patient,
            )
            if claims is not None:
                self._pending.clear()
            return claims

        until = asyncio.get_running_loop().time() + within_s * PUT_SHARE
        return await _retry_until(attempt, until)

    async def _send_unstored(self, until: float) -> list[Delivery]:
        """Send what was noted although the outbox is locked.

        What another process has told or is about to tell is left to it: only the count is put into
        the outbox, as what has not arrived is, as soon as there is a chance.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        now = self._clock.wall()
        claims = [
            Claimed(entry=noted(None, note, profile=self._profile, now=now, new_id=_new_id()))
            for note in self._pending.notes()
            if not self._outbox.covers(self._profile, note)
        ]
        taken = self._pending.take([(each.entry.channel, each.entry.cause) for each in claims])
        try:
            deliveries = await self._send(claims, max(until - loop.time() - SETTLE_S, 0.0))
            taken.take([(each.channel, each.cause) for each in deliveries if each.error is None])
        finally:
            self._pending.give_back(taken)
        if self._pending:
            await _retry_until(lambda: self.save() or None, until - SETTLE_S)
        return deliveries

    async def _send(self, claims: Sequence[Claimed], within_s: float) -> list[Delivery]:
        messages = [(claimed.entry.channel, message_of(claimed)) for claimed in claims]
        return await self._send_messages(messages, within_s)

    async def _send_messages(
        self, messages: Sequence[tuple[str, Message]], within_s: float
    ) -> list[Delivery]:
        def make(channel: str) -> Channel:
            return make_channel(channel, self._settings, self._keys, self._clock)

        return await send_all(messages, make, within_s=within_s)

    def _settle(self, results: Sequence[Sent], *, wait_s: float | None = None) -> bool:
        """Note in the outbox what came of what was sent."""
        interval_s = self._settings.min_interval_s
        return not results or self._outbox.settle(results, min_interval_s=interval_s, wait_s=wait_s)


def _new_id() -> str:
    return os.urandom(12).hex()


class _Held(msgspec.Struct, frozen=True, kw_only=True):
    """How often something happened, and the last time's details."""

    rank: int
    count: int
    details: Details


class _Pending:
    """What was noted and is not in the outbox yet, counted per channel and cause.

    Args:
        minimum_ranks: the channels, each with the least rank it wants.
    """

    def __init__(self, minimum_ranks: Mapping[str, int]) -> None:
        self._minimum_ranks = minimum_ranks
        self._held: dict[Key, _Held] = {}

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    def add(self, found: Finding, details: Details) -> None:
        """Count one more, on each channel that wants it."""
        rank = RANKS[found.severity]
        for channel, minimum in self._minimum_ranks.items():
            if rank >= minimum:
                self._add((channel, found.cause), _Held(rank=rank, count=1, details=details))

    def notes(self) -> list[Note]:
        """Return what the outbox is to take."""
        return [
            Note(
                channel=channel,
                cause=cause,
                severity=held.rank,
                body=msgspec.json.encode(redact_details(held.details)).decode(),
                count=held.count,
            )
            for (channel, cause), held in self._held.items()
        ]

    def clear(self) -> None:
        """Forget all of it."""
        self._held.clear()

    def take(self, keys: Collection[Key]) -> _Pending:
        """Hand some of it over, by channel and cause."""
        taken = _Pending(self._minimum_ranks)
        taken._held = {key: held for key, held in self._held.items() if key in keys}
        for key in keys:
            self._held.pop(key, None)
        return taken

    def give_back(self, taken: _Pending) -> None:
        """Take back what was handed over, in addition to what was added meanwhile."""
        for key, held in taken._held.items():
            self._add(key, held)

    def _add(self, key: Key, held: _Held) -> None:
        before = self._held.get(key)
        if before is not None:
            held = msgspec.structs.replace(
                held, rank=max(held.rank, before.rank), count=held.count + before.count
            )
        elif len(self._held) >= MOST_CAUSES:
            return
        self._held[key] = held


async def _retry_until(attempt: Callable[[], T | None], until: float) -> T | None:
    """Try at least once, and then until there is a result; None when the time is up.

    Args:
        attempt: gives None while it cannot be done.
        until: on the event loop's clock.
    """
    import asyncio
    import random

    loop = asyncio.get_running_loop()
    while True:
        result = attempt()
        if result is not None or loop.time() >= until:
            return result
        await asyncio.sleep(random.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S))  # noqa: S311 - nothing secret
