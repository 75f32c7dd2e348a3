"""Put rule files on top of each other, and find the mistakes of what they make together.

`extends` makes files layers: every file lies above those it extends, each file counts once, and
what a higher layer says of an intent replaces what a lower one of the same language said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import msgspec

from tieredllm.errors import Mistake
from tieredllm.profile.nodes import ListNode, MappingNode, Node, Place
from tieredllm.rules.patterns import compile_pattern
from tieredllm.rules.schema import Intent, IntentEntry, Language, ResponseText, Rule, RuleFile
from tieredllm.rules.template import capture_mistakes

__all__ = ["Layer", "group_mistakes", "merge", "merge_mistakes"]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One rule file."""

    origin: str
    """`builtin`, or the file's path."""
    file: RuleFile
    root: MappingNode | None
    """Where everything stands; None for the built-in rules, which need no checking."""

    def mistake(self, message: str, *path: str | int) -> Mistake:
        """Return a mistake at a key or item, or at what should hold it when it is absent."""
        return self.place(*path).mistake(message)

    def place(self, *path: str | int) -> Place:
        """Return the place of a key's value or of an item, or of what should hold it."""
        node: Node | None = self.root
        place = Place(self.origin, 1, 1)
        for step in path:
            if isinstance(node, MappingNode) and isinstance(step, str):
                node = node.get(step)
            elif isinstance(node, ListNode) and isinstance(step, int):
                node = node.items[step]
            if node is None:
                break
            place = node.place
        return place


def merge(layer: Layer, languages: Mapping[str, Language]) -> Language:
    """Lay one file on what lies below it.

    Args:
        layer: the file.
        languages: what the layers below say, by language.

    Returns:
        The file's language as it is then.
    """
    file = layer.file
    below = languages.get(file.lang)
    inherited = below.intents if below else ()
    intents = {intent.name: intent for intent in inherited if intent.name not in file.remove}
    for entry in file.intents:
        # An intent is as urgent in one language as in another.
        elsewhere = (language.intent(entry.name) for language in languages.values())
        priority = next((intent.priority for intent in elsewhere if intent is not None), 0)
        intents[entry.name] = _intent(layer.origin, entry, intents.get(entry.name), priority)
    return Language(
        lang=file.lang,
        intents=tuple(intents.values()),
        default=file.default or (below.default if below else None),
        notice=file.notice or (below.notice if below else None),
        spellings={**(below.spellings if below else {}), **file.spellings},
    )


def _intent(origin: str, entry: IntentEntry, below: Intent | None, priority: int) -> Intent:
    below = below or Intent(name=entry.name, priority=priority, origin=origin)
    kept = below.rules if entry.patterns is None else _rules(origin, entry.patterns)
    return Intent(
        name=entry.name,
        priority=below.priority if entry.priority is None else entry.priority,
        rules=kept + _rules(origin, entry.extra_patterns),
        responses=(entry.responses or below.responses) + entry.extra_responses,
        otherwise=entry.otherwise or below.otherwise,
        origin=origin,
    )


def _rules(origin: str, patterns: tuple[str, ...]) -> tuple[Rule, ...]:
    return tuple(Rule(pattern=pattern, origin=origin) for pattern in patterns)


def merge_mistakes(
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
        *_intent_mistakes(layer, here[layer.file.lang]),
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


def _intent_mistakes(layer: Layer, language: Language) -> Iterator[Mistake]:
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
    return {name for rule in intent.rules for name in compile_pattern(rule.pattern).groupindex}


def _known(names: Collection[str]) -> str:
    return f": there are {', '.join(sorted(names))}" if names else ""
