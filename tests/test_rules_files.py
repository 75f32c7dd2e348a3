"""Rule files extend, replace and are checked, with every mistake at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_support import matcher, mistakes_in, rule_file, say

from tieredllm.rules.load import check_rules_file, load_rules
from tieredllm.rules.match import failed_tests
from tieredllm.rules.patterns import compile_pattern, pattern_mistake

ORDER = """
    extends: builtin
    intents:
      - name: order
        priority: 60
        patterns: ['(?:where is|track) my order #?(?P<order_id>[\\w-]+)']
        responses:
          - I can't look up order {match.order_id} now. Ask {support_contact}.
"""


def test_an_extending_file_adds_an_intent(tmp_path):
    """The new intent answers, and the built-in ones still do."""
    rules = matcher(tmp_path, ORDER)

    assert rules.match("Where is my order #AB-12?").intent == "order"
    assert rules.match("hello").intent == "greeting"


def test_an_extending_file_replaces_key_by_key(tmp_path):
    """Responses given replace the built-in ones; patterns and priority not given stay."""
    rules = matcher(
        tmp_path,
        """
        extends: builtin
        intents:
          - {name: contact, responses: [Ring the bell.], extra_patterns: [ring you]}
          - {name: greeting, patterns: [ahoy]}
        """,
    )

    assert say(rules, "speak to a human") == "Ring the bell."
    assert rules.match("can I ring you").winner.priority == 50
    assert rules.match("ahoy").intent == "greeting"
    assert rules.match("hello").intent == "general"


def test_an_extending_file_adds_responses(tmp_path):
    """`extra_responses` join the inherited ones."""
    rules = load_rules(
        str(
            rule_file(
                tmp_path,
                "extends: builtin\nintents: [{name: greeting, extra_responses: [Ahoy.]}]\n",
            )
        )
    )
    greeting = rules.languages[0].intent("greeting")

    assert len(greeting.responses) == 3
    assert greeting.responses[-1] == "Ahoy."


def test_a_replacing_file_stands_alone(tmp_path):
    """Without `extends` nothing built in is left but the form of the answer."""
    rules = matcher(
        tmp_path,
        """
        default: other
        intents:
          - {name: pizza, patterns: [pizza], responses: [No pizza.]}
          - {name: other, responses: [No idea.]}
        """,
    )

    assert say(rules, "hello") == "No idea."
    assert say(rules, "one Pizza, please") == "No pizza."
    assert [one.name for one in rules.rules.languages[0].intents] == ["pizza", "other"]


def test_inherited_intents_can_be_removed(tmp_path):
    """`remove` takes an intent out."""
    rules = matcher(tmp_path, "extends: builtin\nremove: [greeting]\n")

    assert rules.match("hello").intent == "general"


def test_files_extend_files_and_each_counts_once(tmp_path):
    """What lies higher wins, also where two files extend the same one."""
    rule_file(
        tmp_path,
        "extends: builtin\nintents: [{name: greeting, responses: [Corporate hello.]}]\n",
        "corp.yaml",
    )
    rule_file(tmp_path, "extends: builtin\nintents: [{name: help, priority: 25}]\n", "b/more.yaml")
    rules = matcher(tmp_path, "extends: [corp.yaml, b/more.yaml]\n")

    assert say(rules, "hello") == "Corporate hello."
    assert rules.match("help").winner.priority == 25


def test_language_files_stand_beside_each_other(tmp_path):
    """A file of another language keeps its own intents, and inherits only how urgent they are."""
    rule_file(
        tmp_path,
        """
        lang: de
        notice: "(Nur eine feste Antwort, kein Sprachmodell. {ref_code})"
        default: contact
        intents:
          - {name: contact, patterns: [mit einem menschen sprechen], responses: [Ruf an.]}
        """,
        "de.yaml",
    )
    rules = matcher(tmp_path, "extends: [builtin, de.yaml]\n")
    finding = rules.match("Ich will mit einem Menschen sprechen")

    assert (finding.lang, finding.intent, finding.winner.priority) == ("de", "contact", 50)
    assert say(rules, "mit einem Menschen sprechen") == "Ruf an."
    assert rules.match("speak to a human").lang == "en"
    assert rules.match("xyz").lang == "en"


ALL_WRONG = """\
lang: English
extends: [builtin, gone.yaml]
default: nowhere
notice: Limited.
colour: red
spellings:
  help: [hlep]
  halp: [hlep]
remove: [pizza]
intents:
  - name: order
    priority: high
    patterns: ['(unclosed', 'a*', fine]
    responses: ["Order {match.id}. {oops", "[support contact]"]
  - patterns: [x]
  - name: a b
    responses: []
tests:
  - {query: hello, intent: greting}
"""


def test_every_mistake_is_told_at_once(tmp_path):
    """Types, patterns, texts and missing files of one file come together, each with its place."""
    told = mistakes_in(rule_file(tmp_path, ALL_WRONG))
    places = [line.split(": ")[0].removeprefix("rules.yaml:") for line in told]

    assert places == [
        "1:7",
        "2:20",
        "4:9",
        "5:1",
        "12:15",
        "13:16",
        "13:29",
        "14:17",
        "14:44",
        "15:5",
        "16:11",
        "17:16",
    ]
    text = "\n".join(told)
    assert "`lang` must be a language tag such as `en` or `pt-BR`" in text
    assert "there is no rule file " in text
    assert "the notice must contain {ref_code}" in text
    assert "not a regular expression: missing )" in text
    assert "'a*' matches the empty text" in text
    assert "'{oops' is no placeholder" in text
    assert "[support contact] would be printed as it stands" in text
    assert "`name` is missing" in text


SENSELESS = """\
extends: builtin
default: nowhere
notice: "Limited {ref_code} {hours}."
spellings:
  help: [hlep]
  halp: [hlep, two words]
remove: [pizza]
intents:
  - name: order
    patterns: ['order (?P<id>\\d+)']
    responses: ["Order {match.number}."]
  - name: order
    responses: [Twice.]
  - name: empty
    responses: [Never said.]
  - name: silent
    patterns: [hush]
tests:
  - {query: hello, intent: greting}
  - {query: hello, intent: greeting, lang: fr}
"""


def test_every_mistake_of_sense_is_told_at_once(tmp_path):
    """What the types allow and makes no sense is a mistake too."""
    told = mistakes_in(rule_file(tmp_path, SENSELESS))

    assert [line.removeprefix("rules.yaml:") for line in told] == [
        (
            "2:10: the default intent `nowhere` does not exist: there are contact, empty, general, "
            "greeting, help, information, order, silent, troubleshooting"
        ),
        "3:9: {hours} may have no value, and a notice is never left out: take it out",
        "6:10: `hlep` stands for `help` already",
        "6:16: `two words` is not one word",
        (
            "7:10: there is no inherited intent `pizza`: there are contact, general, greeting, "
            "help, information, troubleshooting"
        ),
        "11:17: {match.number}: no pattern of this intent has a group (?P<number>\u2026)",
        "12:11: the intent `order` is given twice: keep one",
        "14:5: the intent `empty` can never be chosen: give it `patterns`",
        "16:5: the intent `silent` has nothing to say: give it `responses`",
        (
            "19:28: there is no intent `greting`: there are contact, empty, general, greeting, "
            "help, information, order, silent, troubleshooting"
        ),
        "20:44: there are no rules in `fr`: there are en",
    ]


NO_MAPPING = "a rule file is a mapping (lines of `key: value`): start with `extends: builtin`"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            "",
            "1:1: a rule file is a mapping (lines of `key: value`): start with `extends: builtin`",
        ),
        (
            "[a]",
            "1:1: a rule file is a mapping (lines of `key: value`): start with `extends: builtin`",
        ),
        ("extends: rules.yaml", "1:10: `extends` goes in a circle: `rules.yaml` extends this file"),
        (
            "intents: [{name: a, patterns: [a], responses: [b]}]",
            "1:1: `default` is missing: name the intent that answers when nothing matches",
        ),
        (
            "extends: builtin\nremove: [general]",
            (
                "2:9: the default intent `general` does not exist: there are contact, greeting, "
                "help, information, troubleshooting"
            ),
        ),
    ],
)
def test_single_mistakes(tmp_path, text, mistake):
    """Each has its line, column and a way out."""
    assert mistakes_in(rule_file(tmp_path, text)) == [f"rules.yaml:{mistake}"]


def test_a_mistake_of_an_extended_file_names_that_file(tmp_path):
    """It is found from the file that extends it, beside that one's own mistakes."""
    rule_file(tmp_path, "extends: builtin\nintents: [{name: help, patterns: ['(']}]\n", "base.yaml")
    told = mistakes_in(rule_file(tmp_path, "extends: base.yaml\nnotice: x\n"))

    assert [line.split(": ")[0] for line in told] == ["rules.yaml:2:9", "base.yaml:2:35"]


def test_a_circle_through_another_file_is_told(tmp_path):
    """Two files that extend each other end with a mistake, not in a loop."""
    rule_file(tmp_path, "extends: rules.yaml\n", "other.yaml")

    assert mistakes_in(rule_file(tmp_path, "extends: other.yaml\n")) == [
        "other.yaml:1:10: `extends` goes in a circle: `rules.yaml` extends this file"
    ]


def test_a_missing_file_is_a_mistake(tmp_path):
    """Asked for by path, it is named."""
    (mistake,) = check_rules_file(tmp_path / "gone.yaml")

    assert str(mistake).startswith(
        f"{tmp_path / 'gone.yaml'}:1:1: the file cannot be read: no such"
    )


def test_a_file_s_own_tests_run(tmp_path):
    """Each failing one is told with its place, what it got and why."""
    rules = matcher(
        tmp_path,
        """\
        extends: builtin
        tests:
          - {query: "Hi!", intent: greeting}
          - {query: tissue, intent: troubleshooting}
          - {query: help, intent: greeting, lang: en}
        """,
    )
    failed = [str(mistake).replace(f"{tmp_path}/", "") for mistake in failed_tests(rules)]

    assert failed == [
        (
            "rules.yaml:4:13: `tissue` is general, not troubleshooting: no pattern matches: "
            "the default intent general answers"
        ),
        "rules.yaml:5:13: `help` is help, not greeting: only help matches",
    ]


def test_the_tests_of_extended_files_are_theirs(tmp_path):
    """What lies above may well make them fail."""
    rule_file(tmp_path, "extends: builtin\ntests: [{query: hi, intent: help}]\n", "base.yaml")

    assert failed_tests(matcher(tmp_path, "extends: base.yaml\n")) == []


LETTERS = "ab()[]{}|*+?.^$\\<>=!:-,9\n\u00df\ud800"
GROUPS = r"(?: (?P<a> (?P=a) (?1) \p{ {e<=1} (?| (?> (?<= (?i) (?x)# (?V1) \1 \x (?(1)a|b)"
PIECES = (*LETTERS, *GROUPS.split())
regex_pieces = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(regex_pieces)
def test_any_pattern_is_judged(pattern):
    """No text is so odd a pattern that checking it raises; what passes can be compiled."""
    mistake = pattern_mistake(pattern)

    assert mistake is None or mistake.isprintable()
    assert mistake is not None or compile_pattern(pattern)
