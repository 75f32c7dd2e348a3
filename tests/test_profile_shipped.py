"""The profiles that ship are right, and say what the contract says."""

from __future__ import annotations

import time

import pytest
import yaml
from profile_support import places_in

from tieredllm.files import shipped
from tieredllm.profile.lint import lint
from tieredllm.profile.load import find_profile, known_profiles, load, load_profile
from tieredllm.profile.schema import variables_of

NAMES = ["anthropic", "default", "document", "gemini", "offline", "ollama", "openai"]


@pytest.fixture
def places(tmp_path):
    return places_in(tmp_path / "home")


def test_the_shipped_profiles_are_these(places):
    """Every file of the folder is a profile of its own name, with a description."""
    known = known_profiles(places)

    assert [found.name for found in known] == NAMES
    for found in known:
        profile = load(found, places).profile
        assert profile.name == found.name
        assert profile.description


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_profile_raises_no_doubt(places, name):
    """None of them has a mistake, nor anything that `validate` warns of."""
    assert lint(load(find_profile(name, places), places)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_profile_ends_in_rules_and_has_a_local_model(places, name):
    """Each answers without a network, and cannot fail to answer."""
    tiers = load_profile(name, places).tiers

    assert [tier.provider for tier in tiers][-2:] == ["llama_cpp", "rules"]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_profile_is_yaml_to_others_too(name):
    """PyYAML reads the same file without a complaint."""
    path = shipped("profiles") / f"{name}.yaml"

    assert yaml.safe_load(path.read_text(encoding="utf-8"))["name"] == name


def test_the_document_s_numbers_are_a_profile(places):
    """Four tiers, of three vendors and none, with the source document's numbers."""
    profile = load_profile("document", places)
    numbers = [
        (
            tier.name,
            tier.params.temperature,
            tier.params.max_tokens,
            tier.params.top_p,
            tier.timeout_s,
            tier.retries,
            tier.prompt,
            tier.stream,
        )
        for tier in profile.tiers[:3]
    ]

    assert numbers == [
        ("primary", 0.7, 1024, 0.95, 30, 2, "full", True),
        ("secondary", 0.5, 512, 0.85, 15, 3, "simplified", True),
        ("minimal", 0.3, 256, 0.7, 10, 5, "minimal", True),
    ]
    assert profile.tiers[3].name == profile.tiers[3].provider == "rules"
    assert (profile.deadline_s, profile.on_content_filter) == (120, "stop")
    assert profile.tiers[2].first_token_timeout_s == 30


def test_the_default_lets_a_whole_answer_through(places):
    """The default has the document's tiers, and no limit that thoughts alone would use up."""
    profile = load_profile(None, places)
    document = load_profile("document", places)
    kept = [
        [
            (tier.name, tier.model, tier.prompt, tier.retries, tier.params.temperature)
            for tier in each.tiers
        ]
        for each in (profile, document)
    ]

    assert kept[0] == kept[1]
    assert [tier.params.max_tokens for tier in profile.tiers[:3]] == [None, 8192, 1024]
    assert profile.deadline_s == 120


def test_the_default_falls_from_vendor_to_vendor(places):
    """The second tier's own model is another vendor's than the first's; any one key will do."""
    profile = load_profile(None, places)
    vendors = [
        [backend.provider for backend in (tier, *tier.alternates)] for tier in profile.tiers[:3]
    ]

    assert vendors == [
        ["openai", "anthropic", "gemini"],
        ["anthropic", "gemini", "openai"],
        ["llama_cpp", "llama_cpp"],
    ]
    assert variables_of(profile) == {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"}


def test_the_local_server_needs_no_key(places):
    """The profile for a server of one's own asks for none."""
    tier = load_profile("ollama", places).tiers[0]

    assert (tier.base_url, tier.api_key_env) == ("http://127.0.0.1:11434/v1", None)


def test_reading_the_default_takes_less_than_five_milliseconds(places):
    """A command must start in a blink; the best of several runs is not disturbed by others."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        load_profile(None, places)
        times.append(time.perf_counter() - start)

    assert min(times) < 0.005
