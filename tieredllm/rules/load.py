"""Read rule files, or report every mistake in them at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec

from tieredllm.errors import Mistake, ProfileError
from tieredllm.profile.nodes import ListNode, MappingNode, Node, Place, ScalarNode, to_builtins
from tieredllm.profile.semantics import path_at
from tieredllm.profile.yaml_reader import read_yaml
from tieredllm.rules.merge import Layer, group_mistakes, merge, merge_mistakes
from tieredllm.rules.patterns import pattern_mistake
from tieredllm.rules.schema import Expectation, Language, RuleFile, Rules
from tieredllm.rules.template import OWN_VARIABLES, names, template_mistakes

__all__ = ["BUILTIN", "check_rules_file", "load_rules"]

BUILTIN = "builtin"
BUILTIN_FILE = Path(__file__).parent / "builtin.yaml"


def load_rules(source: str = BUILTIN, *, check_patterns: bool = True) -> Rules:
    """Read rules and all they extend.

    Args:
        source: `builtin`, or the path of a rule file.
        check_patterns: whether to compile every pattern now, which takes about half a millisecond
            each; else a bad one raises `regex.error` when it is first tried.

    Raises:
        ProfileError: every mistake of the file and of those it extends.
    """
    reader = _Reader(check_patterns=check_patterns)
    reader.read(source)
    return reader.merged()


def check_rules_file(path: Path | str) -> list[Mistake]:
    """Return every mistake of a rule file and of those it extends; none when it can be used."""
    try:
        load_rules(str(path))
    except ProfileError as exc:
        return exc.mistakes
    return []


class _Reader:
    """Files as layers; mistakes are collected instead of raising them one by one."""

    def __init__(self, *, check_patterns: bool) -> None:
        self._check_patterns = check_patterns
        self._layers: list[Layer] = []
        self._mistakes: list[Mistake] = []
        self._seen: set[str] = set()
        self._complete = True
        """Whether every layer could be read, so that it can be told what they make together."""
        self._compilable = check_patterns
        """Whether every pattern is known to be good."""

    def read(self, source: str, above: tuple[str, ...] = ()) -> None:
        """Add a file to the layers, above those it extends.

        Args:
            source: `builtin`, or a path.
            above: the files that led here.
        """
        key = _key(source)
        if key in self._seen:
            return
        self._seen.add(key)
        if source == BUILTIN:
            self._layers.append(Layer(origin=BUILTIN, file=_builtin(), root=None))
            return
        root = self._tree(Path(source))
        if root is None:
            self._complete = False
            return
        self._check_texts(root)
        for base in self._bases(root, (*above, key)):
            self.read(base, (*above, key))
        file = self._typed(root)
        if file is None:
            self._complete = False
        else:
            self._layers.append(Layer(origin=source, file=file, root=root))

    def _check_texts(self, root: MappingNode) -> None:
        self._mistakes += _text_mistakes(root)
        if self._check_patterns:
            bad = _pattern_mistakes(root)
            self._mistakes += bad
            self._compilable = self._compilable and not bad

    def _tree(self, path: Path) -> MappingNode | None:
        try:
            root, mistakes = read_yaml(path)
        except ProfileError as exc:
            self._mistakes += exc.mistakes
            return None
        self._mistakes += mistakes
        if isinstance(root, MappingNode):
            return root
        place = root.place if root is not None else Place(str(path), 1, 1)
        message = "a rule file is a mapping (lines of `key: value`): start with `extends: builtin`"
        self._mistakes.append(place.mistake(message))
        return None

    def _bases(self, root: MappingNode, above: tuple[str, ...]) -> Iterator[str]:
        """Return what a file extends, as far as it can be read."""
        extends = root.get("extends")
        for node in [extends] if isinstance(extends, ScalarNode) else root.items("extends"):
            if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
                continue
            base = node.value if node.value == BUILTIN else path_at(node.value, node.place)
            if base != BUILTIN and not Path(base).is_file():
                hint = "give `builtin`, or a path relative to this file"
                message = f"there is no rule file {base}: {hint}"
            elif _key(base) in above:
                message = f"`extends` goes in a circle: `{node.value}` extends this file"
            else:
                yield base
                continue
            self._mistakes.append(node.place.mistake(message))
            self._complete = False

    def _typed(self, root: MappingNode) -> RuleFile | None:
        from tieredllm.profile.validate import check

        try:
            return msgspec.convert(to_builtins(root), RuleFile)
        except msgspec.ValidationError as exc:
            self._mistakes += check(root, RuleFile) or [
                root.place.mistake(f"the rule file is not valid: {exc}")
            ]
            return None

    def merged(self) -> Rules:
        """Merge the layers.

        Raises:
            ProfileError: there are mistakes, in the files or in what they make together.
        """
        here = self._merge() if self._complete else {}
        if self._mistakes:
            from tieredllm.profile.load import sort_mistakes

            raise ProfileError(sort_mistakes(self._mistakes))
        top = self._layers[-1]
        own = here.pop(top.file.lang)
        return Rules(origin=top.origin, languages=(own, *here.values()), tests=_tests(top))

    def _merge(self) -> dict[str, Language]:
        here: dict[str, Language] = {}
        for layer in self._layers:
            below = dict(here)
            here[layer.file.lang] = merge(layer, below)
            if layer.root is not None:
                self._mistakes += merge_mistakes(layer, below, here)
                if self._compilable:
                    self._mistakes += group_mistakes(layer, here[layer.file.lang])
        if all(language.default is None for language in here.values()):
            message = "`default` is missing: name the intent that answers when nothing matches"
            self._mistakes.append(self._layers[-1].mistake(message))
        return here


def _tests(layer: Layer) -> tuple[Expectation, ...]:
    return tuple(
        Expectation(
            place=layer.place("tests", number, "query"),
            query=test.query,
            intent=test.intent,
            lang=test.lang,
        )
        for number, test in enumerate(layer.file.tests)
    )


def _key(source: str) -> str:
    return source if source == BUILTIN else str(Path(source).resolve())


@lru_cache(maxsize=1)
def _builtin() -> RuleFile:
    """Read the built-in rules; tests see to it that they have no mistakes."""
    import yaml

    with BUILTIN_FILE.open("rb") as file:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return msgspec.convert(yaml.load(file, loader), RuleFile)  # noqa: S506 - a safe loader


def _pattern_mistakes(root: MappingNode) -> list[Mistake]:
    """Check every pattern by itself, whatever else is wrong with the file."""
    return [
        node.place.mistake(message)
        for intent in root.mappings("intents")
        for key in ("patterns", "extra_patterns")
        for node in _texts(intent.items(key))
        if (message := pattern_mistake(node.text))
    ]


def _text_mistakes(root: MappingNode) -> list[Mistake]:
    """Check every response and the notice by itself, whatever else is wrong with the file."""
    mistakes = [
        node.place.mistake(message)
        for intent in root.mappings("intents")
        for key in ("responses", "extra_responses", "otherwise")
        for node in _texts(intent.items(key))
        for message in template_mistakes(node.text)
    ]
    notice = root.get("notice")
    if isinstance(notice, ScalarNode):
        mistakes += [notice.place.mistake(message) for message in _notice_mistakes(notice.text)]
    return mistakes


def _texts(nodes: tuple[Node, ...]) -> Iterator[ScalarNode]:
    """Return the texts of a list, and of lists in it; other values are reported by their types."""
    for node in nodes:
        if isinstance(node, ListNode):
            yield from _texts(node.items)
        elif isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value:
            yield node


def _notice_mistakes(notice: str) -> Iterator[str]:
    yield from template_mistakes(notice)
    if "ref_code" not in names(notice):
        yield "the notice must contain {ref_code}, by which support finds the request"
    for name in sorted(names(notice) - OWN_VARIABLES):
        yield f"{{{name}}} may have no value, and a notice is never left out: take it out"
