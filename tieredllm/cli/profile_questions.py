"""Ask at the terminal what a new profile is to be; each answer is checked where it is given."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tieredllm.cli.environment import Environment
from tieredllm.cli.prompt_input import open_url
from tieredllm.errors import UsageError
from tieredllm.keys import Keys, clean_key
from tieredllm.local.catalog import CatalogModel
from tieredllm.local.library import LocalModel
from tieredllm.profile.init_template import VENDORS, Server
from tieredllm.profile.schema import KEY_VARIABLES
from tieredllm.profile.semantics import url_problem
from tieredllm.proxies import UnusableProxyError
from tieredllm.redaction import is_address
from tieredllm.text import format_bytes

__all__ = ["FoundServer", "Questions", "server_at"]

OWN_SERVER = "server"
"""What a server of the user's own is called among the vendors."""

USUAL_SERVERS = {
    "Ollama": "http://127.0.0.1:11434/v1",
    "LM Studio": "http://127.0.0.1:1234/v1",
    "llama.cpp": "http://127.0.0.1:8080/v1",
    "vLLM": "http://127.0.0.1:8000/v1",
}
"""Where servers are on their own machine unless told otherwise, as their documentation says."""

LOOK_S = 0.5
"""How long a server on this machine may take to say which models it has, when looked for."""
ANSWER_S = 5.0
"""How long one may take whose address was given."""
MAX_LIST_BYTES = 1_048_576
"""More than this is no list of models."""
SHORTEST_KEY = 8
SHOWN_MODELS = 12


class FoundServer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server that speaks OpenAI's protocol says of itself."""

    base_url: str
    models: tuple[str, ...] = ()
    problem: str | None = None
    """Why it cannot be used as it is; None when it answers."""


def server_at(address: str, wait_s: float = ANSWER_S) -> FoundServer:
    """Ask a server which models it has.

    Args:
        address: as people write it: `http://` and `/v1` may lack.
        wait_s: how long it may take, in seconds.
    """
    from tieredllm.notify.http_post import network_error
    from tieredllm.providers.http import spare_httpx_its_command_line

    spare_httpx_its_command_line()
    import httpx

    url = address.strip().rstrip("/").removesuffix("/chat/completions")
    url = url if is_address(url) else f"http://{url}"
    problem = url_problem(url)
    if problem is not None:
        return FoundServer(base_url=url, problem=f"the address {problem}")
    url = url if urlsplit(url).path.strip("/") else f"{url}/v1"
    try:
        with open_url(f"{url}/models", silence_s=wait_s) as reply:
            body = b""
            for piece in reply.iter_raw():
                body += piece
                if len(body) > MAX_LIST_BYTES:
                    break
    except (UnusableProxyError, ImportError) as exc:
        known = isinstance(exc, UnusableProxyError)
        return FoundServer(base_url=url, problem=str(exc if known else network_error(exc)))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
        return FoundServer(base_url=url, problem=f"nothing answers there ({type(exc).__name__})")
    if reply.status_code in {401, 403}:  # it is there, and wants a key
        return FoundServer(base_url=url)
    try:
        listed = msgspec.json.decode(body, type=_ModelList).data if reply.is_success else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        listed = None
    if listed is None:
        problem = f"{url}/models is no list of models (HTTP {reply.status_code})"
        return FoundServer(base_url=url, problem=problem)
    return FoundServer(base_url=url, models=tuple(model.id for model in listed))


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    """The answer to `GET /v1/models` (https://platform.openai.com/docs/api-reference/models/list)."""

    data: list[_Model]


class Questions:
    """The questions; each has an answer that Enter takes.

    Ctrl-C and the end of the input leave, before anything was written.

    Args:
        environment: the terminal; questions are on stderr.
        keys: where keys are looked up and kept.
    """

    def __init__(self, environment: Environment, keys: Keys) -> None:
        self._session = environment
        self._keys = keys

    def name(self, problem: Callable[[str], str | None]) -> str:
        """Ask what the profile is called.

        Args:
            problem: says what is wrong with a name; None when nothing is.
        """
        self._print("This makes a profile: which models are asked, in which order.")
        while True:
            answer = self._ask("Its name (`default` is used when you name none)", "default")
            found = problem(answer)
            if found is None:
                return answer
            self._print(found)

    def replace(self, path: Path) -> bool:
        """Ask whether a file may be replaced."""
        return self._confirm(f"{path} is there already. Replace it?")

    def sources(self, with_key: list[str]) -> tuple[str | Server, ...]:
        """Ask which vendors there are, for their keys, and where an own server is.

        Args:
            with_key: the vendors whose key is set.
        """
        names = [*VENDORS, OWN_SERVER]
        self._print("\nWhich vendors can you use?")
        for number, (vendor, title) in enumerate(VENDORS.items(), 1):
            variable = KEY_VARIABLES[vendor]
            origin = self._keys.origin(variable)
            found = f"{variable} found ({origin})" if origin else f"{variable} is not set"
            self._print(f"  {number}  {title:<16} {found}")
        at, server = self._look_around()
        self._print(f"  {len(names)}  {'your own server':<16} {at}")
        usual = [str(names.index(vendor) + 1) for vendor in with_key]
        usual = usual or ([str(len(names))] if server.models else ["0"])
        chosen = self._numbers("Their numbers, the best first; 0 for none", names, " ".join(usual))
        return tuple(
            self._server(server) if name == OWN_SERVER else self._with_key(name) for name in chosen
        )

    def _look_around(self) -> tuple[str, FoundServer]:
        """Look for a server on this machine; return what to say of it, and what it has."""
        for title, address in USUAL_SERVERS.items():
            found = server_at(address, LOOK_S)
            if found.models:
                return f"{title} found at {found.base_url}", found
        usual = FoundServer(base_url=next(iter(USUAL_SERVERS.values())))
        return f"{', '.join(USUAL_SERVERS)} and the like", usual

    def local(self, models: dict[str, LocalModel], usual: str) -> str | None:
        """Ask which local model is wanted.

        Args:
            models: the catalog's and those of this machine, by name.
            usual: what Enter takes.
        """
        names = list(models)
        self._print("\nWhich local model answers when no vendor does? It needs no key, no network.")
        width = max(map(len, names))
        for number, one in enumerate(models.values(), 1):
            entry = one.entry
            there = "; it is here already" if one.size_bytes is not None else ""
            size = one.size_bytes or (entry.size_bytes if entry is not None else 0)
            about = f"{entry.licence}{there}" if entry is not None else "it is here already"
            self._print(f"  {number}  {one.name:<{width}}  {format_bytes(size):>7}  {about}")
            if entry is not None and entry.description:
                indent = " " * 5
                self._print(textwrap.fill(f"{indent}{entry.description}", subsequent_indent=indent))
        answer = self._numbers("Its number; 0 for none", names, str(names.index(usual) + 1), most=1)
        return answer[0] if answer else None

    def pull(self, model: CatalogModel) -> bool:
        """Ask whether to download a model, with its size and licence."""
        size = format_bytes(model.size_bytes)
        return self._confirm(f"Download {model.name} now ({size}, {model.licence})?")

    def _with_key(self, vendor: str) -> str:
        """Ask for a vendor's key where it is not set; it may be left for later."""
        self._ask_key(KEY_VARIABLES[vendor])
        return vendor

    def _ask_key(self, variable: str) -> None:
        if self._keys.origin(variable):
            return
        from getpass import getpass

        prompt = f"{variable} (not shown; Enter leaves it for later): "
        while True:
            try:
                key = clean_key(getpass(prompt, stream=self._session.stderr))
            except EOFError:
                key = ""
            if not key:
                self._print(f"later: `tieredllm keys set {variable}`")
                return
            if len(key) < SHORTEST_KEY or any(character.isspace() for character in key):
                self._print("that is no key: too short, or with a space in it")
                continue
            try:
                self._keys.set(variable, key)
            except UsageError as exc:
                self._print(str(exc))
                continue
            self._print(f"kept {variable} in {self._keys.file}")
            return

    def _server(self, usual: FoundServer) -> Server:
        """Ask where an own server is, and for one of its models."""
        while True:
            address = self._ask("Your server's address, up to and with /v1", usual.base_url)
            found = server_at(address)
            if found.problem is None:
                break
            self._print(f"{found.base_url}: {found.problem}")
            if url_problem(found.base_url) is None and self._confirm("Keep it all the same?"):
                break
        return Server(
            base_url=found.base_url,
            model=self._model(found.models),
            api_key_env=self._key_variable(),
        )

    def _model(self, listed: tuple[str, ...]) -> str:
        """Ask for a model; one that the server does not list must be confirmed."""
        if listed:
            more = ", …" if len(listed) > SHOWN_MODELS else ""
            self._print(f"It has {', '.join(listed[:SHOWN_MODELS])}{more}")
        while True:
            model = self._ask("Its model", listed[0] if listed else "gemma3:4b")
            if is_address(model):
                self._print("that is an address, not the name of a model")
                continue
            unlisted = f"It does not list {model}. Take it all the same?"
            if not listed or model in listed or self._confirm(unlisted):
                return model

    def _key_variable(self) -> str | None:
        """Ask for the name of the variable with the server's key."""
        while True:
            variable = self._ask("The variable with its key; `none` when it needs none", "none")
            if variable == "none":
                return None
            try:
                self._keys.check_name(variable)
            except UsageError as exc:
                self._print(str(exc))
                continue
            self._ask_key(variable)
            return variable

    def _numbers(self, question: str, names: list[str], usual: str, *, most: int = 9) -> list[str]:
        """Ask for some of the things listed, by number or name."""
        while True:
            words = self._ask(question, usual).replace(",", " ").split()
            if words == ["0"]:
                return []
            chosen = [_resolve(word, names) for word in words]
            if None not in chosen and len(chosen) <= most:
                return list(dict.fromkeys(name for name in chosen if name is not None))
            wanted = "one number" if most == 1 else "numbers"
            self._print(f"{wanted} from 1 to {len(names)}, or 0")

    def _ask(self, question: str, usual: str) -> str:
        import typer

        answer: str = typer.prompt(question, default=usual, err=True)
        return answer.strip()

    def _confirm(self, question: str) -> bool:
        import typer

        return typer.confirm(question, default=False, err=True)

    def _print(self, line: str) -> None:
        print(line, file=self._session.stderr)


def _resolve(word: str, names: list[str]) -> str | None:
    if word.isdecimal() and 1 <= int(word) <= len(names):
        return names[int(word) - 1]
    return word.lower() if word.lower() in names else None
