"""Look API keys up by name, and keep them in a file that only its owner can read.

An environment variable wins over the file. A key that is blank counts as not set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from tieredllm.errors import Mistake, ProfileError, TieredLLMError, UsageError
from tieredllm.files import atomic_write, one_at_a_time

__all__ = ["KeyOrigin", "Keys", "clean_key"]

KeyOrigin = Literal["environment", "keys file"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LOCK_S = 10.0
"""How long a change waits for those of other processes; each takes milliseconds."""

_HEADER = (
    "# Keys, kept by `tieredllm keys set NAME`. An environment variable wins over this file.\n"
)


def clean_key(text: str) -> str:
    """Return a key without what is often copied along.

    That is white space, one pair of quotes around it (`docker --env-file` leaves them in the value)
    and the `Bearer ` of a header.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text[len("Bearer ") :].strip() if text[: len("Bearer ")].lower() == "bearer " else text


class Keys:
    """The keys of one user.

    The file is read when a name is asked for that the environment does not have, and then once.
    Changes of several processes come one after the other, so none is lost.

    Args:
        env: the environment.
        keys_file: YAML, lines of `NAME: value`; need not exist.
    """

    def __init__(self, env: Mapping[str, str], keys_file: Path) -> None:
        self._env = env
        self.file = keys_file
        self._stored: dict[str, str] | None = None
        self._mistakes: tuple[Mistake, ...] = ()

    def get(self, name: str) -> str | None:
        """Return a key as `clean_key` leaves it; None when it is not set."""
        return self._from_environment(name) or self._read().get(name)

    def origin(self, name: str) -> KeyOrigin | None:
        """Return where `get` takes a key from; None when it is not set."""
        if self._from_environment(name):
            return "environment"
        return "keys file" if name in self._read() else None

    def names(self) -> tuple[str, ...]:
        """Return the names in the file, sorted."""
        return tuple(sorted(self._read()))

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What is wrong with the file; keys are then taken from what is right in it."""
        self._read()
        return self._mistakes

    @property
    def exposed(self) -> bool:
        """Whether others than the owner can read the file, as far as the system tells."""
        if os.name != "posix":
            return False
        try:
            return self.file.stat().st_mode & 0o077 != 0
        except OSError:
            return False

    def set(self, name: str, value: str) -> None:
        """Keep a key in the file, in place of the one that was there.

        Raises:
            UsageError: the name is no variable's, the key is blank or more than one line, or the
                file is broken (it is left as it is).
            TieredLLMError: the file cannot be written.
        """
        self.check_name(name)
        value = clean_key(value)
        if not value:
            raise UsageError(f"nothing was given for {name}")
        if not value.isprintable():
            raise UsageError(f"the key for {name} must be one line without control characters")
        with self._locked():
            self._write({**self._read_to_write(), name: value})

    @staticmethod
    def check_name(name: str) -> None:
        """Make sure that a name can be a variable's.

        Raises:
            UsageError: it cannot; the message does not repeat it, for it may be a key.
        """
        if not _NAME.fullmatch(name):
            reason = "a key's name has letters, digits and `_`, such as OPENAI_API_KEY"
            raise UsageError(reason)

    def remove(self, name: str) -> None:
        """Take a key out of the file.

        Raises:
            UsageError: the file has no such key, or is broken (it is left as it is).
            TieredLLMError: the file cannot be written.
        """
        with self._locked():
            stored = self._read_to_write()
            if name not in stored:
                hint = "; it is set in the environment" if self._from_environment(name) else ""
                raise UsageError(f"{self.file} has no key {name}{hint}")
            self._write({other: value for other, value in stored.items() if other != name})

    def tidy(self) -> None:
        """Remove the copy that a process left when it was killed in the middle of a change."""
        if self._part.exists():
            with suppress(TieredLLMError), self._locked():
                self._part.unlink(missing_ok=True)

    @property
    def _part(self) -> Path:
        """Where the next state of the file is written before it takes the file's place."""
        target = self.file.resolve()
        return target.with_name(f".{target.name}.part")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the file.

        Raises:
            TieredLLMError: the place cannot be written, or another process does not come to an end.
        """
        from filelock import Timeout

        target = self.file.resolve()
        with ExitStack() as held:
            try:
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                held.enter_context(one_at_a_time(target, wait_s=LOCK_S, mode=0o600))
            except Timeout as exc:
                message = (
                    f"another process has been changing {self.file} for {LOCK_S:.0f} s: end it"
                )
                raise TieredLLMError(message) from exc
            except OSError as exc:
                raise TieredLLMError(f"cannot write {self.file}: {exc.strerror or exc}") from exc
            yield

    def _from_environment(self, name: str) -> str | None:
        # Bytes that are no UTF-8 come as halves of a pair, which can neither be sent nor hashed.
        text = self._env.get(name, "").encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return clean_key(text) or None

    def _read_to_write(self) -> dict[str, str]:
        self._stored = None
        stored = self._read()
        if self._mistakes:
            raise UsageError(f"{self._mistakes[0]} (put this right first, nothing was changed)")
        return stored

    def _read(self) -> dict[str, str]:
        if self._stored is None:
            self._stored, self._mistakes = _stored_in(self.file)
        return self._stored

    def _write(self, stored: dict[str, str]) -> None:
        from tieredllm.profile.dump import write_yaml

        text = _HEADER + (
            write_yaml({name: stored[name] for name in sorted(stored)}) if stored else ""
        )
        try:
            atomic_write(self.file, text, private=True, part=self._part)
        except OSError as exc:
            raise TieredLLMError(f"cannot write {self.file}: {exc.strerror or exc}") from exc
        self._stored, self._mistakes = stored, ()


def _stored_in(file: Path) -> tuple[dict[str, str], tuple[Mistake, ...]]:
    """Read the keys of a file, and what is wrong with it; no value is in a mistake."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}, ()
    except OSError as exc:
        message = f"the file cannot be read: {(exc.strerror or str(exc)).lower()}"
        return {}, (Mistake(file=str(file), line=1, column=1, message=message),)
    from tieredllm.profile.nodes import MappingNode, ScalarNode
    from tieredllm.profile.yaml_reader import read_yaml

    try:
        root, mistakes = read_yaml(file, secret=True)
    except ProfileError as exc:
        return {}, tuple(exc.mistakes)
    if root is None or (isinstance(root, ScalarNode) and root.value is None):
        return {}, tuple(mistakes)
    if not isinstance(root, MappingNode):
        return {}, (*mistakes, root.place.mistake("the keys file has lines of `NAME: value`"))
    stored = {}
    for name, entry in root.entries.items():
        if not isinstance(entry.node, ScalarNode):
            mistakes.append(entry.place.mistake("a key is one line: `NAME: value`"))
        elif not _NAME.fullmatch(name):
            mistakes.append(entry.place.mistake("a key's name has letters, digits and `_`"))
        elif entry.node.value is not None and (key := clean_key(entry.node.text)):
            # A key of digits alone is text too: what counts is what the file says.
            stored[name] = key
    return stored, tuple(mistakes)
