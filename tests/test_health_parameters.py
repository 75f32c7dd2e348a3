"""Tests of the memory of rejected parameters."""

from __future__ import annotations

from store_support import FakeClock

from tieredllm.client import FallbackManager
from tieredllm.engine.ports import ParameterMemory
from tieredllm.files import Places
from tieredllm.health.parameters import SqliteParameters
from tieredllm.profile.schema import Profile, Tier
from tieredllm.store.database import Database
from tieredllm.store.schema import STEPS


def test_what_a_backend_rejects_is_known_to_every_process(tmp_path):
    """A parameter that was rejected once is left out by other processes too, for this backend."""
    path, clock = tmp_path / "state.db", FakeClock()
    with Database(path) as database:
        memory: ParameterMemory = SqliteParameters(database, clock)
        memory.reject("b", "temperature")
        memory.reject("b", "top_p")
        memory.reject("b", "top_p")
    with Database(path) as database:
        memory = SqliteParameters(database, clock)

        assert memory.rejected("b") == {"temperature", "top_p"}
        assert memory.rejected("another") == frozenset()


def test_what_was_learned_from_one_bad_schema_is_forgotten(tmp_path):
    """A database of before holds no tier from schemas any more; its other rows stay."""
    path, clock = tmp_path / "state.db", FakeClock()
    with Database(path, steps=STEPS[:6]) as old:
        for parameter in ("schema", "top_p"):
            SqliteParameters(old, clock).reject("b", parameter)
    with Database(path) as database:
        known = SqliteParameters(database, clock).rejected("b")

    assert known == {"top_p"}


def test_asking_makes_no_file(tmp_path):
    """Nothing is known where nothing was learned, and no file is made to find that out."""
    with Database(tmp_path / "state" / "state.db") as database:
        memory = SqliteParameters(database)
        memory.reset()

        assert memory.rejected("b") == frozenset()
    assert not (tmp_path / "state").exists()


def test_it_is_forgotten_after_thirty_days(tmp_path):
    """A parameter is tried again after a month, unless it was rejected again meanwhile."""
    clock = FakeClock()
    with Database(tmp_path / "state.db") as database:
        memory = SqliteParameters(database, clock)
        memory.reject("b", "old")
        memory.reject("b", "renewed")
        clock.now += 29 * 86_400
        memory.reject("b", "renewed")
        before = memory.rejected("b")
        clock.now += 86_400
        after = memory.rejected("b")
        memory.reject("b", "new")
        kept = database.read(
            lambda c: c.execute("SELECT count(*) FROM rejected_parameters").fetchone()[0], 0
        )

    assert (before, after) == ({"old", "renewed"}, {"renewed"})
    assert kept == 2


def test_reset_forgets_one_or_all(tmp_path):
    """What one backend rejects, or everyone, can be forgotten."""
    with Database(tmp_path / "state.db") as database:
        memory = SqliteParameters(database)
        for identity in "abc":
            memory.reject(identity, "top_p")
        memory.reset("a")
        one = [bool(memory.rejected(identity)) for identity in "abc"]
        memory.reset()

        assert one == [False, True, True]
        assert not any(memory.rejected(identity) for identity in "abc")
        assert database.problem is None


def test_it_is_forgotten_when_the_profile_changes(tmp_path):
    """What was rejected under one profile is tried under another."""
    with Database(tmp_path / "state.db") as database:
        SqliteParameters(database, profile="one").reject("b", "tools")

        assert SqliteParameters(database, profile="one").rejected("b") == {"tools"}
        assert SqliteParameters(database, profile="two").rejected("b") == frozenset()


def test_it_is_remembered_from_version_to_version(tmp_path):
    """A profile is hashed to the same bytes, also where a tier's fields are declared elsewhere."""
    profile = Profile(name="r", tiers=(Tier(name="rules", provider="rules"),))
    places = Places.from_environment({"TIEREDLLM_HOME": str(tmp_path)})
    manager = FallbackManager(profile, env={}, places=places)
    with manager.database:
        SqliteParameters(manager.database, profile="e6ed12ef766e1fe9").reject("b", "tools")

        assert manager._parameters.rejected("b") == {"tools"}
