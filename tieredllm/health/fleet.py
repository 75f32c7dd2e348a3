"""Share what hosts learn of backends over Redis or Valkey, as a hint: the truth stays each host's.

A thread reads and writes; no request ever waits for it. What it has read is used while it is at
most `FRESH_S` old, so a store that is frozen, gone, full or full of garbage changes nothing, and is
told once. All times are the server's own, taken inside its scripts, and a longer cooldown extends a
shorter one, never the other way round. Backends are known by a hash of their identity, which has
the key's hash in it: no URL, model, key or prompt leaves the host.

Per backend, below `tieredllm:1:HASH`::

    open    a hash: `until` (ms), `cooldown` (ms), `kind`; kept for a while after it is over,
            so that who comes then knows that somebody has to probe
    seen    a hash: for each host until when it sees the backend fail in a way that may be its own
            trouble; two make it everybody's
    lease   the token of the one request of all hosts that probes (`SET NX PX`)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from tieredllm.engine.ports import Standing, TurnResult
from tieredllm.health.breaker import known_kind
from tieredllm.health.memory import LEASE_S, SqliteHealth, WindowReport
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import HealthSettings

__all__ = ["FRESH_S", "FleetHealth", "Store"]

FRESH_S = 1.0
"""How old what was read may be and still count, in seconds."""
REFRESH_S = 0.4
"""How often it is read while requests are made."""
RESTS_AFTER_S = 5.0
"""After how long without a request nothing is read any more."""
TIMEOUT_S = 0.5
"""How long the thread waits for the store."""
RETRY_S = 2.0
"""How long it leaves a store alone that has failed."""
FLUSH_S = 0.04
"""How long a process that ends waits for what it has learnt to be told."""
MAX_WRITES = 1000
"""What is kept for a store that is not there; the oldest goes first."""
KEPT_MS = 120_000
"""How long after its end an outage is remembered."""
MAX_OPEN_MS = 86_400_000
"""The longest that another host's word keeps a backend set aside: a day."""

EVERYBODYS = frozenset(
    {
        ErrorKind.RATE_LIMIT,
        ErrorKind.QUOTA_EXHAUSTED,
        ErrorKind.SERVICE_UNAVAILABLE,
        ErrorKind.AUTHENTICATION,
        ErrorKind.PERMISSION,
        ErrorKind.NOT_FOUND,
    }
)
"""The kinds that concern all who use the same key."""
PERHAPS_OWN = frozenset({ErrorKind.CONNECTION, ErrorKind.TLS, ErrorKind.TIMEOUT})
"""The kinds that may be one host's own trouble, until two hosts agree."""

NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""
OPEN = f"""{NOW}
local till = now + tonumber(ARGV[1])
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[2], ARGV[3], till)
  redis.call('PEXPIRE', KEYS[2], tonumber(ARGV[1]) + {KEPT_MS})
  local seen, hosts = redis.call('HGETALL', KEYS[2]), 0
  for i = 2, #seen, 2 do
    if tonumber(seen[i]) > now then hosts = hosts + 1 end
  end
  if hosts < 2 then return 0 end
end
local old = tonumber(redis.call('HGET', KEYS[1], 'until')) or 0
if till > old then
  redis.call('HSET', KEYS[1], 'until', till, 'cooldown', ARGV[1], 'kind', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[1]) + {KEPT_MS})
end
return 1
"""
"""KEYS: open, seen. ARGV: cooldown in ms, kind, host, whether it takes two hosts."""
CLOSE = """
if ARGV[1] == '' or redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
return redis.call('DEL', KEYS[1], KEYS[2])
"""
"""KEYS: open, seen, lease. ARGV: the lease's token, or nothing."""
RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
"""KEYS: lease. ARGV: the lease's token."""
READ = f"""{NOW}
local found = {{now}}
for i = 1, #KEYS do
  local it = redis.call('HMGET', KEYS[i], 'until', 'cooldown', 'kind')
  found[#found + 1] = it[1] or ''
  found[#found + 1] = it[2] or ''
  found[#found + 1] = it[3] or ''
end
return found
"""
"""KEYS: open, one for each backend. Gives the time, then three values for each."""

_log = logging.getLogger("tieredllm.health")


class Store(Protocol):
    """What of a Redis client is used: https://redis.readthedocs.io/en/stable/commands.html."""

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a script (EVAL)."""
        ...

    def set(self, name: str, value: str, *, nx: bool, px: int) -> Any:
        """Set a key that is not there, for so many milliseconds."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...


class _Hint(msgspec.Struct, frozen=True, kw_only=True):
    """What the fleet says of one backend."""

    ends_at: float
    """When its cooldown ends; on the monotonic clock."""
    cooldown_s: float
    kind: ErrorKind | None


class FleetHealth:
    """The engine's memory of health: this host's own, with the hints of the fleet.

    Args:
        own: this host's.
        settings: the thresholds of the profile.
        host: tells this host from others; hashed before it leaves.
        connect: makes the client of the store, on the thread.
        eager: whether one question is all there will be, so that the right to probe is asked for
            as soon as it may be needed.
    """

    def __init__(
        self,
        own: SqliteHealth,
        settings: HealthSettings,
        *,
        host: str,
        connect: Callable[[], Store],
        eager: bool = False,
    ) -> None:
        self._own = own
        self._settings = settings
        self._host = _digest(host)
        self._connect = connect
        self._eager = eager
        self._names: dict[str, str] = {}
        """The backends that were asked about, and the hash of each."""
        self._hints: dict[str, _Hint] = {}
        self._read_at = float("-inf")
        self._asked_at = float("-inf")
        self._is_told = False
        self.begin()
        _ALL.add(self)

    def begin(self) -> None:
        """Begin without a thread, a right or anything to tell, as a forked child has to."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._writes: deque[Callable[[Store], Any]] = deque(maxlen=MAX_WRITES)
        self._wanted: set[str] = set()
        """Those that a request would probe."""
        self._leases: dict[str, tuple[str, float]] = {}
        """The right to probe, where this process has it: the token, and until when."""
        self._probing: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    # For requests: nothing here waits.

    def standings(self, identities: Sequence[str]) -> dict[str, Standing]:
        """Return how the backends stand: as on this host, unless the fleet says it is worse."""
        own = self._own.standings(identities)
        with self._lock:
            now = self._asked_at = time.monotonic()
            for identity in identities:
                self._names.setdefault(identity, _digest(identity))
            if self._is_fresh(now):
                own = {name: self._worse(name, found, now) for name, found in own.items()}
        self._start()
        return own

    def acquire_probe(self, identity: str) -> bool:
        """Take the one right of the whole fleet to probe, if it is here; else ask for it."""
        with self._lock:
            now = time.monotonic()
            token, until = self._leases.pop(identity, ("", 0.0))
            has_lease = now < until
            if self._is_fresh(now) and not has_lease:
                self._wanted.add(identity)
                self._wake.set()
                return False
        if not self._own.acquire_probe(identity):
            if has_lease:
                self._give_back(identity, token)
            return False
        if has_lease:
            self._probing[identity] = token
        return True

    def record(self, result: TurnResult) -> None:
        """Take note of one backend's turn, and let the others know what concerns them."""
        self._own.record(result)
        token = self._probing.pop(result.identity, "") if result.probe else ""
        name = self._names.setdefault(result.identity, _digest(result.identity))
        if result.ok:
            if token or result.identity in self._hints:
                self._hints.pop(result.identity, None)
                self._close_circuit(name, token)
            return
        self._tell(result, name, probed=bool(token))
        if token:
            self._give_back(result.identity, token)

    def window(self, identity: str) -> WindowReport:
        """Sum up a backend's requests on this host."""
        return self._own.window(identity)

    def reset(self, identity: str | None = None) -> None:
        """Forget one backend's health, or everyone's, on all hosts."""
        self._own.reset(identity)
        for each, name in self._names.items():
            if identity in (None, each):
                self._close_circuit(name, "")

    def close(self) -> None:
        """Let what was learnt out, but not for long, and stop; what comes later begins again."""
        self._own.close()
        if not self._is_running:
            return
        with self._lock:
            leases, self._leases = self._leases, {}
        for identity, (token, _) in leases.items():
            self._give_back(identity, token)
        deadline = time.monotonic() + FLUSH_S
        while self._writes and not self._is_told and time.monotonic() < deadline:
            self._idle.clear()
            self._wake.set()
            self._idle.wait(max(0.0, deadline - time.monotonic()))
        self._ended.set()
        self._wake.set()

    @property
    def _is_running(self) -> bool:
        return self._thread is not None and not self._ended.is_set()

    def _is_fresh(self, now: float) -> bool:
        return now - self._read_at <= FRESH_S

    def _worse(self, identity: str, own: Standing, now: float) -> Standing:
        """Return the worse of what this host and what the fleet knows."""
        hint = self._hints.get(identity)
        if hint is None:
            return own
        left_s = hint.ends_at - now
        retry_at = time.time() + left_s
        reason = f"another host met {hint.kind or 'failures'}"
        if left_s > 0:
            if own.state == "open" and own.retry_at is not None and own.retry_at >= retry_at:
                return own
            return Standing(state="open", reason=reason, cause=hint.kind, retry_at=retry_at)
        if own.state == "closed":
            return Standing(state="half_open", reason=reason, cause=hint.kind, retry_at=retry_at)
        return own

    def _tell(self, result: TurnResult, name: str, *, probed: bool) -> None:
        """Tell the fleet of a failure, if it has opened a circuit and is no host's own affair."""
        kind = result.kind
        if kind not in EVERYBODYS and kind not in PERHAPS_OWN:
            return
        standing = self._own.standings([result.identity])[result.identity]
        left_s = 0.0
        if standing.state == "open" and standing.retry_at is not None:
            left_s = standing.retry_at - time.time()
        elif probed:  # known to be down from others alone
            hint = self._hints.get(result.identity)
            before_s = hint.cooldown_s if hint is not None else self._settings.cooldown_s / 2
            left_s = min(2 * before_s, self._settings.max_cooldown_s)
        if left_s <= 0:
            return
        ms = min(int(left_s * 1000), MAX_OPEN_MS)
        takes_two = int(kind in PERHAPS_OWN)
        keys = (_key(name, "open"), _key(name, "seen"))
        self._write(lambda store: store.eval(OPEN, 2, *keys, ms, str(kind), self._host, takes_two))

    def _close_circuit(self, name: str, token: str) -> None:
        keys = (_key(name, "open"), _key(name, "seen"), _key(name, "lease"))
        self._write(lambda store: store.eval(CLOSE, 3, *keys, token))

    def _give_back(self, identity: str, token: str) -> None:
        key = _key(self._names[identity], "lease")
        self._write(lambda store: store.eval(RELEASE, 1, key, token))

    def _write(self, write: Callable[[Store], Any]) -> None:
        self._writes.append(write)
        self._start()
        self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._is_running:
                return
            former, self._ended = self._thread, threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._ended, former), name="shared health", daemon=True
            )
            self._thread.start()

    # On the thread.

    def _run(self, ended: threading.Event, former: threading.Thread | None) -> None:
        if former is not None:
            former.join()  # it may be in the middle of a write
        store: Store | None = None
        while not ended.is_set():
            try:
                if store is None:
                    store = self._connect()
                self._exchange(store)
                self._is_told = False
            except Exception as exc:  # noqa: BLE001 - whatever the store is, it is a hint
                self._tell_once(exc)
                self._close_quietly(store)
                store = None
                self._idle.set()
                time.sleep(RETRY_S)
                continue
            self._idle.set()
            is_resting = time.monotonic() - self._asked_at > RESTS_AFTER_S
            self._wake.wait(None if is_resting else REFRESH_S)
            self._wake.clear()
        self._close_quietly(store)

    def _exchange(self, store: Store) -> None:
        """Write what is to be told, read what there is, and ask for the rights that are wanted."""
        while self._writes:
            self._writes[0](store)
            self._writes.popleft()
        names = dict(self._names)
        if not names:
            return
        began = time.monotonic()
        keys = [_key(name, "open") for name in names.values()]
        hints = _hints(store.eval(READ, len(keys), *keys), list(names), began)
        with self._lock:
            self._hints, self._read_at = hints, began
            wanted, self._wanted = self._wanted, set()
        if self._eager:
            standings = self._own.standings(list(names))
            wanted |= {
                identity
                for identity in names
                if self._worse(identity, standings[identity], began).state == "half_open"
            }
        for identity in wanted - self._leases.keys() - self._probing.keys():
            token = os.urandom(8).hex()
            until = time.monotonic() + LEASE_S
            px = int(LEASE_S * 1000)
            if store.set(_key(names[identity], "lease"), token, nx=True, px=px):
                with self._lock:
                    self._leases[identity] = token, until

    def _tell_once(self, exc: Exception) -> None:
        if not self._is_told:
            self._is_told = True
            why = str(exc).partition("\n")[0][:200] or type(exc).__name__
            _log.warning(
                "tieredllm: shared health is not to be had, this host's own counts: %s", why
            )

    def _close_quietly(self, store: Store | None) -> None:
        if store is not None:
            with contextlib.suppress(Exception):  # it is gone either way
                store.close()


_ALL: weakref.WeakSet[FleetHealth] = weakref.WeakSet()


def _in_child() -> None:
    for health in list(_ALL):
        health.begin()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)


def connect(url: str) -> Store:
    """Make the client of a store; nothing is sent yet.

    Args:
        url: `redis://`, `rediss://` or `unix://`; Valkey's is the same.

    Raises:
        ImportError: the package `redis` is not there.
        ValueError: it is no such URL.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise ImportError("run `pip install 'tieredllm[redis]'`") from None
    store: Store = redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),  # redis-py tries three times, with waits, by default
        health_check_interval=0,
    )
    return store


def _digest(text: str) -> str:
    return hashlib.sha256(f"tieredllm {text}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _key(name: str, what: str) -> str:
    return f"tieredllm:1:{name}:{what}"


def _hints(found: Any, identities: Sequence[str], began: float) -> dict[str, _Hint]:
    """Read what the store has given.

    Raises:
        ValueError: it is of another shape.
    """
    if not isinstance(found, list) or len(found) != 1 + 3 * len(identities):
        raise ValueError("what is stored is of another shape")
    now_ms = int(found[0])
    hints: dict[str, _Hint] = {}
    for number, identity in enumerate(identities):
        till, cooldown, kind = found[1 + 3 * number : 4 + 3 * number]
        if not till:
            continue
        left_s = min(int(till) - now_ms, MAX_OPEN_MS) / 1000  # a float could be `nan`
        hints[identity] = _Hint(
            ends_at=began + left_s,
            cooldown_s=max(0, int(cooldown or 0)) / 1000,
            kind=known_kind(str(kind)),
        )
    return hints
