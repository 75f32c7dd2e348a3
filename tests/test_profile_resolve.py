"""Profiles are found by name or path, and inherit from each other."""

from __future__ import annotations

import pytest
from profile_support import mistakes_in, places_in, write

from tieredllm.errors import ProfileError, UsageError
from tieredllm.files import shipped
from tieredllm.profile.load import find_profile, known_profiles, load_profile

RULES = "tiers: [{name: rules, provider: rules}]"
BASE = """
    name: base
    description: the one below
    deadline_s: 50
    health: {min_requests: 9, cooldown_s: 2}
    notifications: {slack: {channel: ops}}
    tiers:
      - name: one
        provider: openai
        model: big
        base_url: http://127.0.0.1:1/v1
        api_key_env: null
        alternates: [{provider: gemini, model: g}]
        context_tokens: 5000
        timeout_s: 7
        params: {temperature: 0.1, max_tokens: 9}
      - {name: two, provider: anthropic, model: mid, retries: 4}
      - {name: rules, provider: rules, vars: {a: below, b: below}}
"""


@pytest.fixture
def places(tmp_path):
    return places_in(tmp_path / "home")


@pytest.fixture
def base(tmp_path):
    return write(tmp_path / "base.yaml", BASE)


def extended(tmp_path, places, text):
    path = write(tmp_path / "child.yaml", "extends: ./base.yaml\n" + text)
    return load_profile(str(path), places)


def test_without_a_name_the_built_in_default_is_used(places):
    """A fresh install has a profile."""
    assert find_profile(None, places).path == shipped("profiles") / "default.yaml"


def test_the_users_default_comes_before_the_built_in_one(places):
    """A file `default.yaml` in the configuration directory is the default."""
    path = write(places.profiles / "default.yaml", RULES)

    assert find_profile(None, places).path == path
    assert find_profile("default", places).origin == "user"
    assert [tier.name for tier in load_profile(None, places).tiers] == ["rules"]


@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_a_name_is_looked_up_in_the_configuration_directory(places, ending):
    """Both endings count."""
    path = write(places.profiles / f"work.{ending}", RULES)

    found = find_profile("work", places)

    assert (found.name, found.path, found.origin) == ("work", path, "user")


def test_a_path_has_a_separator_or_an_ending(tmp_path, places, monkeypatch):
    """What says that it is a path is one, also where a profile has its name."""
    monkeypatch.chdir(tmp_path)
    for name in ("x.yaml", "plain", "offline"):
        write(tmp_path / name, RULES)

    assert find_profile("x.yaml", places).origin == "file"
    assert find_profile("./plain", places).origin == "file"
    assert find_profile(str(tmp_path / "plain"), places).origin == "file"
    assert find_profile("offline", places).origin == "shipped"
    assert find_profile("./offline", places).origin == "file"


@pytest.mark.parametrize("file", ["work", "work.yaml", "work.yml"])
def test_a_bare_name_is_never_a_file_of_the_working_directory(tmp_path, places, monkeypatch, file):
    """A file that happens to lie there is not run; how to name it is said."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / file, RULES)

    with pytest.raises(UsageError) as caught:
        find_profile("work", places)

    assert str(caught.value) == f"no profile `work`: for the file, write ./{file}"


def test_an_unknown_name_names_the_known_ones(places):
    """The message has the nearest name, and all of them."""
    with pytest.raises(UsageError) as caught:
        load_profile("ofline", places)

    assert str(caught.value) == (
        "there is no profile `ofline`: did you mean `offline`? "
        "known are anthropic, default, document, gemini, offline, ollama, openai"
    )


def test_a_missing_file_is_said_to_be_missing(places):
    """A path that leads nowhere is no profile error: there is no file to point into."""
    with pytest.raises(UsageError, match=r"there is no profile file nope\.yaml"):
        load_profile("nope.yaml", places)


def test_known_profiles_are_listed_once(places):
    """A user's profile takes the place of a shipped one in the list."""
    write(places.profiles / "openai.yaml", RULES)
    write(places.profiles / "work.yaml", RULES)
    write(places.profiles / "notes.txt", "x")

    known = {found.name: found.origin for found in known_profiles(places)}

    assert known == {
        "anthropic": "shipped",
        "default": "shipped",
        "document": "shipped",
        "gemini": "shipped",
        "offline": "shipped",
        "ollama": "shipped",
        "openai": "user",
        "work": "user",
    }


def test_mappings_merge_deeply(tmp_path, places, base):
    """What the child does not say is inherited, key by key, but for its name."""
    profile = extended(
        tmp_path,
        places,
        "health: {cooldown_s: 3}\nnotifications: {slack: {min_severity: low}}\n"
        "tiers: [{name: one, params: {max_tokens: 8}}, {name: rules, vars: {b: above}}]",
    )

    assert (profile.name, profile.description, profile.deadline_s) == ("child", None, 50)
    assert (profile.health.min_requests, profile.health.cooldown_s) == (9, 3)
    assert (profile.tiers[0].params.temperature, profile.tiers[0].params.max_tokens) == (0.1, 8)
    assert profile.tiers[0].model == "big"
    assert profile.tiers[2].vars == {"a": "below", "b": "above"}


def test_null_takes_an_inherited_mapping_away(tmp_path, places, base):
    """Where null is allowed it wins over what is inherited."""
    assert extended(tmp_path, places, "notifications: {slack: null}").notifications.slack is None


def test_lists_other_than_tiers_are_replaced(tmp_path, places, base):
    """The child's alternates are all the alternates."""
    profile = extended(
        tmp_path, places, "tiers: [{name: one, alternates: [{provider: anthropic, model: c}]}]"
    )

    assert [each.model for each in profile.tiers[0].alternates] == ["c"]


def test_inherited_tiers_can_be_left_out(tmp_path, places, base):
    """What `remove_tiers` names is gone, and may be given anew."""
    without = extended(tmp_path, places, "remove_tiers: [one]")
    anew = extended(tmp_path, places, "remove_tiers: [one]\ntiers: [{name: one, provider: cache}]")

    assert [tier.name for tier in without.tiers] == ["two", "rules"]
    assert (anew.tiers[0].name, anew.tiers[0].provider) == ("one", "cache")
    assert anew.tiers[0].model is None


def test_a_tier_to_leave_out_must_be_inherited(tmp_path, places, base):
    """A name that is not there is told at its place, with those that are."""
    told = mistakes_in(
        write(tmp_path / "c.yaml", "extends: ./base.yaml\nremove_tiers: [one, other]\n"), places
    )
    alone = "remove_tiers: [one]\ntiers: [{name: r, provider: rules}]\n"

    assert told == ["2:21: no tier `other` is inherited: there are one, two, rules"]
    assert mistakes_in(write(tmp_path / "d.yaml", alone), places) == [
        "1:16: no tier `one` is inherited"
    ]


@pytest.mark.parametrize(
    ("tiers", "order"),
    [
        ("[{name: new, provider: rules}]", "new one two rules"),
        ("[{name: one}, {name: new, provider: rules}]", "one new two rules"),
        (
            "[{name: two}, {name: x, provider: rules}, {name: y, provider: rules}]",
            "one two x y rules",
        ),
        (
            "[{name: x, provider: rules}, {name: rules}, {name: y, provider: rules}]",
            "x one two rules y",
        ),
        ("[{name: two, retries: 1}, {name: one, retries: 1}]", "one two rules"),
        ("[]", "one two rules"),
    ],
)
def test_new_tiers_come_after_the_one_they_follow(tmp_path, places, base, tiers, order):
    """A tier of an inherited name stays in its place; a new one follows its neighbour."""
    profile = extended(tmp_path, places, f"tiers: {tiers}")

    assert " ".join(tier.name for tier in profile.tiers) == order


def test_another_provider_keeps_nothing_of_the_old_backend(tmp_path, places, base):
    """Model, URL, key, alternates and context go; what says how to ask stays."""
    profile = extended(tmp_path, places, "tiers: [{name: one, provider: gemini, model: g}]")
    tier = profile.tiers[0]

    assert (tier.model, tier.base_url, tier.alternates) == ("g", None, ())
    assert str(tier.api_key_env) == "UNSET"
    assert tier.context_tokens == 128_000
    assert (tier.timeout_s, tier.params.temperature) == (7, 0.1)


def test_a_change_to_the_local_provider_brings_its_defaults(tmp_path, places, base):
    """A cloud tier's timeouts and context are not forced on a model that must be loaded first."""
    profile = extended(tmp_path, places, "tiers: [{name: one, provider: llama_cpp, model: m}]")
    tier = profile.tiers[0]

    assert (tier.context_tokens, tier.first_token_timeout_s, tier.timeout_s) == (4096, 30, 120)


def test_a_change_of_provider_alone_lacks_a_model(tmp_path, places, base):
    """The inherited model is not offered to another vendor."""
    path = write(
        tmp_path / "child.yaml", "extends: ./base.yaml\ntiers: [{name: one, provider: gemini}]"
    )

    assert mistakes_in(path, places) == [
        "2:9: `model` is missing: tier `one` needs the name its server has for a model"
    ]


def test_a_users_default_extends_the_built_in_one(places):
    """A profile's own name, extended, means the one it hides."""
    write(
        places.profiles / "default.yaml", "extends: default\ntiers: [{name: primary, model: other}]"
    )

    profile = load_profile(None, places)

    assert [tier.name for tier in profile.tiers] == ["primary", "secondary", "minimal", "rules"]
    assert (profile.tiers[0].model, profile.tiers[0].params.max_tokens) == ("other", None)


def test_profiles_inherit_over_several_files(places):
    """A profile may extend one that extends another."""
    write(places.profiles / "a.yaml", "extends: b\ndeadline_s: 1")
    write(places.profiles / "b.yaml", "extends: offline\non_content_filter: fallback")

    profile = load_profile("a", places)

    assert (profile.deadline_s, profile.on_content_filter) == (1, "fallback")
    assert [tier.name for tier in profile.tiers] == ["minimal", "rules"]


def test_a_circle_is_a_mistake_with_a_place(places):
    """The mistake is where the circle closes, and names the files on it."""
    write(places.profiles / "default.yaml", "extends: b")
    last = write(places.profiles / "b.yaml", "deadline_s: 1\nextends: default")

    with pytest.raises(ProfileError) as caught:
        load_profile("default", places)

    assert [str(each) for each in caught.value.mistakes] == [
        f"{last}:2:10: `extends` goes in a circle: default.yaml → b.yaml → default.yaml"
    ]


def test_a_file_that_extends_itself_is_a_circle(tmp_path, places):
    """A path may lead back to the file itself."""
    path = write(tmp_path / "x.yaml", "extends: ./x.yaml")

    assert mistakes_in(path, places) == ["1:10: `extends` goes in a circle: x.yaml → x.yaml"]


def test_mistakes_keep_the_file_they_are_in(tmp_path, places):
    """Those of the profile come first, then those of what it extends."""
    base = write(tmp_path / "base.yaml", "deadline_s: x\ntiers: [{name: a, provider: rules}]")
    child = write(tmp_path / "child.yaml", "extends: base.yaml\nhealth: {cooldown_s: y}")

    with pytest.raises(ProfileError) as caught:
        load_profile(str(child), places)

    assert [(each.file, each.line, each.column) for each in caught.value.mistakes] == [
        (str(child), 2, 22),
        (str(base), 1, 13),
    ]


def test_an_unreadable_base_does_not_hide_the_childs_mistakes(tmp_path, places):
    """What can be told of the child is told; what it may inherit is not missed."""
    base = write(tmp_path / "base.yaml", "tiers: [")
    child = write(tmp_path / "child.yaml", "extends: base.yaml\nhealth: {cooldown_s: y}")

    with pytest.raises(ProfileError) as caught:
        load_profile(str(child), places)

    assert [(each.file, each.line) for each in caught.value.mistakes] == [
        (str(child), 2),
        (str(base), 2),
    ]


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        (
            "ofline",
            (
                "there is no profile `ofline`: did you mean `offline`? known are "
                "anthropic, default, document, gemini, offline, ollama, openai"
            ),
        ),
        ("./none.yaml", "there is no file {folder}/none.yaml to extend"),
        ("base", "no profile `base`: for the file, write ./base.yaml"),
    ],
)
def test_what_cannot_be_extended_is_a_mistake_at_its_place(
    tmp_path, places, base, extends, message
):
    """The name or path is pointed at, with what would be right."""
    path = write(tmp_path / "child.yaml", f"deadline_s: 1\nextends: {extends}")

    assert mistakes_in(path, places) == [f"2:10: {message}".replace("{folder}", str(tmp_path))]


def test_paths_of_an_inherited_profile_stay_relative_to_it(tmp_path, places):
    """A rule file is looked for beside the profile that names it."""
    rules = write(tmp_path / "below/rules.yaml", "x: 1")
    write(tmp_path / "below/base.yaml", "tiers: [{name: r, provider: rules, rules: rules.yaml}]")
    path = write(
        tmp_path / "child.yaml", "extends: below/base.yaml\ntiers: [{name: r, vars: {a: b}}]"
    )

    assert load_profile(str(path), places).tiers[0].rules == str(rules)
