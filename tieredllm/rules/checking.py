"""Find the mistakes of a rule file: first in its texts, then in what it makes of those below it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tieredllm.errors import Mistake
from tieredllm.profile import tree
from tieredllm.rules.layers import Layer
from tieredllm.rules.model import Intent, Language
from tieredllm.rules.patterns import compiled, pattern_mistake
from tieredllm.rules.schema import IntentEntry, ResponseText
from tieredllm.rules.templates import OWN_VARIABLES, capture_mistakes, names, template_mistakes

__all__ = ["group_mistakes", "pattern_mistakes", "sense_mistakes", "text_mistakes"]


def pattern_mistakes(root: tree.Mapping) -> list[Mistake]:
    """Check every pattern by itself, whatever else is wrong with the file."""
    return [
        node.place.mistake(message)
        for intent in root.mappings("intents")
        for key in ("patterns", "extra_patterns")
        for node in _texts(intent.items(key))
        if (message := pattern_mistake(node.text))
    ]


def text_mistakes(root: tree.Mapping) -> list[Mistake]:
    """Check every response and the notice by itself, whatever else is wrong with the file."""
    mistakes = [
        node.place.mistake(message)
        for intent in root.mappings("intents")
        for key in ("responses", "extra_responses", "otherwise")
        for node in _texts(intent.items(key))
        for message in template_mistakes(node.text)
    ]
    notice = root.get("notice")
    if isinstance(notice, tree.Scalar):
        mistakes += [notice.place.mistake(message) for message in _notice_mistakes(notice.text)]
    return mistakes


def _texts(nodes: tuple[tree.Node, ...]) -> Iterator[tree.Scalar]:
    """Give the texts of a list, and of lists in it; other values are reported by their types."""
    for node in nodes:
        if isinstance(node, tree.Sequence):
            yield from _texts(node.items)
        elif isinstance(node, tree.Scalar) and isinstance(node.value, str) and node.value:
            yield node


def _notice_mistakes(notice: str) -> Iterator[str]:
    yield from template_mistakes(notice)
    if "ref_code" not in names(notice):
        yield "the notice must contain {ref_code}, by which support finds the request"
    for name in sorted(names(notice) - OWN_VARIABLES):
        yield f"{{{name}}} may have no value, and a notice is never left out: take it out"


def sense_mistakes(
    layer: Layer, below: Mapping[str, Language], here: Mapping[str, Language]
) -> list[Mistake]:
    """Check whether one file makes sense on top of those below it.

    Args:
        layer: the file.
        below: the languages as the layers below it left them.
        here: the languages with the file laid on.
    """
    return [
        *_removals(layer, below),
        *_defaults(layer, here[layer.file.lang]),
        *_intents(layer, here[layer.file.lang]),
        *_spellings(layer),
        *_tests(layer, here),
    ]


def _removals(layer: Layer, below: Mapping[str, Language]) -> Iterator[Mistake]:
    inherited = below.get(layer.file.lang)
    known = [intent.name for intent in inherited.intents] if inherited else []
    for number, name in enumerate(layer.file.remove):
        if name not in known:
            message = f"there is no inherited intent `{name}`{_known(known)}"
            yield layer.mistake(message, "remove", number)


def _defaults(layer: Layer, language: Language) -> Iterator[Mistake]:
    if language.default is not None and language.intent(language.default) is None:
        known = _known([intent.name for intent in language.intents])
        message = f"the default intent `{language.default}` does not exist{known}"
        yield layer.mistake(message, "default" if layer.file.default else "remove")


def _intents(layer: Layer, language: Language) -> Iterator[Mistake]:
    seen: set[str] = set()
    for number, entry in enumerate(layer.file.intents):
        if entry.name in seen:
            message = f"the intent `{entry.name}` is given twice: keep one"
            yield layer.mistake(message, "intents", number, "name")
        seen.add(entry.name)
        intent = language.intent(entry.name)
        if intent is None:
            continue
        if not intent.rules and entry.name != language.default:
            message = f"the intent `{entry.name}` can never be chosen: give it `patterns`"
            yield layer.mistake(message, "intents", number)
        if not intent.responses:
            message = f"the intent `{entry.name}` has nothing to say: give it `responses`"
            yield layer.mistake(message, "intents", number)


def _spellings(layer: Layer) -> Iterator[Mistake]:
    known: dict[str, str] = {}
    for word, others in layer.file.spellings.items():
        if len(word.split()) != 1:
            yield layer.mistake(f"`{word}` is not one word", "spellings", word)
        for number, other in enumerate(others):
            at = ("spellings", word, number)
            if len(other.split()) != 1:
                yield layer.mistake(f"`{other}` is not one word", *at)
            first = known.setdefault(other.casefold(), word)
            if first != word:
                yield layer.mistake(f"`{other}` stands for `{first}` already", *at)


def _tests(layer: Layer, here: Mapping[str, Language]) -> Iterator[Mistake]:
    intents = {intent.name for language in here.values() for intent in language.intents}
    for number, test in enumerate(layer.file.tests):
        if test.intent not in intents:
            message = f"there is no intent `{test.intent}`{_known(intents)}"
            yield layer.mistake(message, "tests", number, "intent")
        if test.lang is not None and test.lang not in here:
            message = f"there are no rules in `{test.lang}`{_known(here)}"
            yield layer.mistake(message, "tests", number, "lang")


def group_mistakes(layer: Layer, language: Language) -> Iterator[Mistake]:
    """Check the `{match.…}` of a file's responses, once all patterns are known to be good."""
    for number, entry in enumerate(layer.file.intents):
        intent = language.intent(entry.name)
        groups = _groups(intent) if intent is not None else set()
        for key, responses in _given(entry):
            for at, response in enumerate(responses):
                for message in capture_mistakes(response, groups):
                    yield layer.mistake(message, "intents", number, key, at)


def _given(entry: IntentEntry) -> tuple[tuple[str, tuple[ResponseText, ...]], ...]:
    return (
        ("responses", entry.responses or ()),
        ("extra_responses", entry.extra_responses),
        ("otherwise", entry.otherwise or ()),
    )


def _groups(intent: Intent) -> set[str]:
    return {name for rule in intent.rules for name in compiled(rule.pattern).groupindex}


def _known(names: Collection[str]) -> str:
    return f": there are {', '.join(sorted(names))}" if names else ""
