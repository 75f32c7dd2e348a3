"""Ask at the terminal what a new profile is to be."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

from tieredllm.cli.environment import Environment
from tieredllm.cli.profile_draft import (
    OWN_SERVER,
    SERVER_MODEL,
    SERVER_URL,
    Vendor,
    own_server,
)
from tieredllm.errors import UsageError
from tieredllm.keys import Keys
from tieredllm.local.catalog import CatalogModel
from tieredllm.local.pull import Installed
from tieredllm.text import format_bytes

__all__ = ["Questions"]


class Questions:
    """Put the questions; each has an answer that Enter takes.

    Ctrl-C and the end of the input leave, before anything was written.

    Args:
        session: the terminal; questions are on stderr.
        keys: where keys are looked up and kept.
    """

    def __init__(self, session: Environment, keys: Keys) -> None:
        self._session = session
        self._keys = keys

    def name(self, problem: Callable[[str], str | None]) -> str:
        """Ask what the profile is called.

        Args:
            problem: says what is wrong with a name; None when nothing is.
        """
        self._tell("This makes a profile: which models are asked, in which order.")
        while True:
            answer = self._asked("Its name (`default` is used when you name none)", "default")
            found = problem(answer)
            if found is None:
                return answer
            self._tell(found)

    def replace(self, path: Path) -> bool:
        """Ask whether a file may be replaced."""
        return self._confirmed(f"{path} is there already. Replace it?")

    def vendors(self, known: dict[str, Vendor], with_key: list[Vendor]) -> tuple[Vendor, ...]:
        """Ask which vendors there are, for their keys, and where an own server is.

        Args:
            known: the vendors, by name.
            with_key: those whose key is set.
        """
        names = [*known, OWN_SERVER]
        self._tell("\nWhich vendors can you use?")
        for number, vendor in enumerate(known.values(), 1):
            variable = vendor.key_variable or ""
            origin = self._keys.origin(variable)
            found = f"{variable} found ({origin})" if origin else f"{variable} is not set"
            self._tell(f"  {number}  {vendor.title:<16} {found}")
        servers = "Ollama, LM Studio, vLLM, llama.cpp and the like"
        self._tell(f"  {len(names)}  {'your own server':<16} {servers}")
        usual = " ".join(str(names.index(vendor.name) + 1) for vendor in with_key) or "0"
        chosen = self._numbers("Their numbers, the best first; 0 for none", names, usual)
        return tuple(
            self._server() if name == OWN_SERVER else self._with_key(known[name]) for name in chosen
        )

    def local(self, models: dict[str, Installed], usual: str) -> str | None:
        """Ask which local model is wanted.

        Args:
            models: the catalog's, by name.
            usual: what Enter takes.
        """
        names = list(models)
        self._tell("\nWhich local model answers when no vendor does? It needs no key, no network.")
        width = max(map(len, names))
        for number, one in enumerate(models.values(), 1):
            model = one.model
            there = "; it is here already" if one.size_bytes is not None else ""
            self._tell(
                f"  {number}  {model.name:<{width}}  {format_bytes(model.size_bytes):>7}  "
                f"{model.licence}{there}"
            )
            indent = " " * 5
            self._tell(textwrap.fill(f"{indent}{model.description}", subsequent_indent=indent))
        answer = self._numbers("Its number; 0 for none", names, str(names.index(usual) + 1), most=1)
        return answer[0] if answer else None

    def pull(self, model: CatalogModel) -> bool:
        """Ask whether to download a model, with its size and licence."""
        size = format_bytes(model.size_bytes)
        return self._confirmed(f"Download {model.name} now ({size}, {model.licence})?")

    def _with_key(self, vendor: Vendor) -> Vendor:
        """Ask for the key that is not set; it may be left for later."""
        variable = vendor.key_variable
        if variable is None or self._keys.origin(variable):
            return vendor
        from getpass import getpass

        while True:
            try:
                key = getpass(
                    f"{variable} (not shown; Enter leaves it for later): ",
                    stream=self._session.stderr,
                )
            except EOFError:
                key = ""
            if not key.strip():
                self._tell(f"later: `tieredllm keys set {variable}`")
                return vendor
            try:
                self._keys.set(variable, key)
            except UsageError as exc:
                self._tell(str(exc))
                continue
            self._tell(f"kept {variable} in {self._keys.file}")
            return vendor

    def _server(self) -> Vendor:
        """Ask where an own server is."""
        base_url = self._asked("Your server's address, up to and with /v1", SERVER_URL)
        model = self._asked("Its model", SERVER_MODEL)
        while True:
            variable = self._asked("The variable with its key; `none` when it needs none", "none")
            if variable == "none":
                return own_server(base_url, model, None)
            try:
                self._keys.check_name(variable)
            except UsageError as exc:
                self._tell(str(exc))
                continue
            return self._with_key(own_server(base_url, model, variable))

    def _numbers(self, question: str, names: list[str], usual: str, *, most: int = 9) -> list[str]:
        """Ask for some of the things listed, by number or name."""
        while True:
            words = self._asked(question, usual).replace(",", " ").split()
            if words == ["0"]:
                return []
            chosen = [_named(word, names) for word in words]
            if None not in chosen and len(chosen) <= most:
                return list(dict.fromkeys(name for name in chosen if name is not None))
            wanted = "one number" if most == 1 else "numbers"
            self._tell(f"{wanted} from 1 to {len(names)}, or 0")

    def _asked(self, question: str, usual: str) -> str:
        import typer

        answer: str = typer.prompt(question, default=usual, err=True)
        return answer.strip()

    def _confirmed(self, question: str) -> bool:
        import typer

        return typer.confirm(question, default=False, err=True)

    def _tell(self, line: str) -> None:
        print(line, file=self._session.stderr)


def _named(word: str, names: list[str]) -> str | None:
    if word.isdecimal() and 1 <= int(word) <= len(names):
        return names[int(word) - 1]
    return word.lower() if word.lower() in names else None
