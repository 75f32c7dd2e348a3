"""Put rule files on top of each other.

`extends` makes files layers: every file lies above those it extends, each file counts once, and
what a higher layer says of an intent replaces what a lower one of the same language said.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tieredllm.errors import Mistake
from tieredllm.profile import tree
from tieredllm.rules.model import Intent, Language, Rule
from tieredllm.rules.schema import IntentEntry, RuleFile

__all__ = ["Layer", "laid"]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one rule file."""

    origin: str
    """`builtin`, or the file's path."""
    file: RuleFile
    root: tree.Mapping | None
    """Where everything stands; None for the built-in rules, which need no checking."""

    def mistake(self, message: str, *path: str | int) -> Mistake:
        """Give a mistake at a key or item, or at what should hold it when it is absent."""
        return self.place(*path).mistake(message)

    def place(self, *path: str | int) -> tree.Place:
        """Give the place of a key's value or of an item, or of what should hold it."""
        node: tree.Node | None = self.root
        place = tree.Place(self.origin, 1, 1)
        for step in path:
            if isinstance(node, tree.Mapping) and isinstance(step, str):
                node = node.get(step)
            elif isinstance(node, tree.Sequence) and isinstance(step, int):
                node = node.items[step]
            if node is None:
                break
            place = node.place
        return place


def laid(layer: Layer, languages: Mapping[str, Language]) -> Language:
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
