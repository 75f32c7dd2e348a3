"""Read rule files, or report every mistake in them at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tieredllm.errors import Mistake, ProfileError
from tieredllm.rules.model import Expectation, Language, Rules
from tieredllm.rules.schema import RuleFile

if TYPE_CHECKING:
    from tieredllm.profile.tree import Mapping
    from tieredllm.rules.layers import Layer

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
    """Give every mistake of a rule file and of those it extends; none when it can be used."""
    try:
        load_rules(str(path))
    except ProfileError as exc:
        return exc.mistakes
    return []


class _Reader:
    """Read files into layers; collect mistakes instead of raising them one by one."""

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
        from tieredllm.rules.layers import Layer

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

    def _check_texts(self, root: Mapping) -> None:
        from tieredllm.rules.checking import pattern_mistakes, text_mistakes

        self._mistakes += text_mistakes(root)
        if self._check_patterns:
            bad = pattern_mistakes(root)
            self._mistakes += bad
            self._compilable = self._compilable and not bad

    def _tree(self, path: Path) -> Mapping | None:
        from tieredllm.profile.tree import Mapping, Place
        from tieredllm.profile.yaml_reading import read

        try:
            root, mistakes = read(path)
        except ProfileError as exc:
            self._mistakes += exc.mistakes
            return None
        self._mistakes += mistakes
        if isinstance(root, Mapping):
            return root
        place = root.place if root is not None else Place(str(path), 1, 1)
        message = "a rule file is a mapping (lines of `key: value`): start with `extends: builtin`"
        self._mistakes.append(place.mistake(message))
        return None

    def _bases(self, root: Mapping, above: tuple[str, ...]) -> Iterator[str]:
        """Give what a file extends, as far as it can be read."""
        from tieredllm.profile.sense import path_at
        from tieredllm.profile.tree import Scalar

        extends = root.get("extends")
        for node in [extends] if isinstance(extends, Scalar) else root.items("extends"):
            if not isinstance(node, Scalar) or not isinstance(node.value, str):
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

    def _typed(self, root: Mapping) -> RuleFile | None:
        from tieredllm.profile.checking import check
        from tieredllm.profile.tree import plain

        try:
            return msgspec.convert(plain(root), RuleFile)
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
        here = self._laid() if self._complete else {}
        if self._mistakes:
            from tieredllm.profile.reading import in_order

            raise ProfileError(in_order(self._mistakes))
        top = self._layers[-1]
        own = here.pop(top.file.lang)
        return Rules(origin=top.origin, languages=(own, *here.values()), tests=_tests(top))

    def _laid(self) -> dict[str, Language]:
        from tieredllm.rules.checking import group_mistakes, sense_mistakes
        from tieredllm.rules.layers import laid

        here: dict[str, Language] = {}
        for layer in self._layers:
            below = dict(here)
            here[layer.file.lang] = laid(layer, below)
            if layer.root is not None:
                self._mistakes += sense_mistakes(layer, below, here)
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
