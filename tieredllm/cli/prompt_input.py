"""Take in what the user gives: words, piped text, files, URLs; bounded in size, and in time."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tieredllm.cli.environment import Environment
from tieredllm.errors import TieredLLMError, UsageError
from tieredllm.types import Attachment, MessagePart, media_type

if TYPE_CHECKING:
    import httpx

__all__ = [
    "MAX_BYTES",
    "Patience",
    "check_stdin",
    "open_url",
    "question_and_attachments",
    "read_files",
    "read_media",
]

MAX_BYTES = 64 * 1024 * 1024
"""The most that stdin or one file may hold: far more than any model takes."""

CHUNK_BYTES = 1024 * 1024

READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Not blocking: opening a FIFO that nobody writes to would wait for ever. O_BINARY is Windows'."""

QUIET_STDIN_S = 2.0
"""After this many seconds without a byte from stdin, the user is told what is being waited for."""

UTF_16_32 = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks of text that has NULs in it, as some Windows programs write it. UTF-32's come
first, for one of them begins with one of UTF-16's."""


LONGEST_MARK = 4
"""Bytes of UTF-32's byte order marks."""


MEDIA_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf")
"""Of a URL, whose first bytes only the vendor sees."""

URL_SILENCE_S = 15.0
"""The longest silence of a server that a file is fetched from."""

MAX_REDIRECTS = 5


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long stdin is waited for, in seconds.

    A deadline that was asked for counts from the start. The profile's own only bounds the silence:
    what is piped in may be a build that takes its time.
    """

    total_s: float = float("inf")
    silence_s: float = float("inf")

    @classmethod
    def within(cls, asked_s: float | None, usual_s: float) -> Patience:
        """Return it for a deadline that was asked for, or else for the profile's."""
        return cls(silence_s=usual_s) if asked_s is None else cls(total_s=asked_s)


def check_stdin(words: list[str], files: list[str], attach: list[str], *, may_read: bool) -> None:
    """Refuse to read stdin twice, or against `--no-stdin`.

    Args:
        words: the question's words; nothing but dashes is stdin.
        files: the texts.
        attach: the images and documents.
        may_read: False with `--no-stdin`.

    Raises:
        UsageError: it is wanted more than once, or though it is to be left alone.
    """
    named = ["-"] * (len(words) if set(words) == {"-"} else 0)
    named += ["-f -"] * files.count("-") + ["-a -"] * attach.count("-")
    if named and not may_read:
        raise UsageError(f"`{named[0]}` means stdin, and --no-stdin leaves it alone")
    if len(named) > 1:
        told = " and ".join(f"`{each}`" for each in named)
        raise UsageError(f"{told} are both stdin, which can be read only once")


def question_and_attachments(
    environment: Environment,
    words: list[str],
    files: list[str],
    *,
    patience: Patience,
    read_stdin: bool = True,
) -> tuple[str, tuple[Attachment, ...]]:
    """Join the prompt's parts.

    Piped text comes first, then the files, then the question. `-` as the only word means that the
    question is stdin, `-` as a file that stdin is attached there. A question is empty when only
    text was given.

    Args:
        environment: the streams.
        words: the question's words.
        files: what it is about.
        patience: how long stdin is waited for.
        read_stdin: False to leave stdin alone.

    Raises:
        UsageError: stdin or a file is too large, no text, or cannot be read.
        TieredLLMError: stdin did not end in time.
    """
    is_named = "-" in files
    if words == ["-"]:
        question = _read_stdin(environment, patience)
        return question, read_files(environment, files, patience=patience)
    stdin = ""
    if is_named or (read_stdin and environment.is_piped_into):
        stdin = _read_stdin(environment, patience)
    piped = (Attachment(text=stdin),) if stdin.strip() and not is_named else ()
    attachments = read_files(
        environment, files, patience=patience, stdin=stdin if is_named else None
    )
    return " ".join(words), piped + attachments


def read_files(
    environment: Environment,
    files: list[str],
    *,
    patience: Patience,
    stdin: str | None = None,
) -> tuple[Attachment, ...]:
    """Read the files a question is about.

    Args:
        environment: where warnings go.
        files: their paths; `-` is stdin, and a URL is fetched.
        patience: how long a shell's `<(command)` is waited for.
        stdin: what stdin held; None where it is not to be read.

    Raises:
        UsageError: one is too large, no text, no plain file, or cannot be read.
    """
    attachments = []
    for name in files:
        if name == "-":
            if stdin is None:
                raise UsageError("-f -: stdin is where the messages come from")
            attachments.append(Attachment(name="stdin", text=stdin))
        elif _is_url(name):
            from tieredllm.redaction import mask_url

            # What opens the page is for its server alone, and neither for a vendor nor the log.
            shown = mask_url(name)
            attachments.append(Attachment(name=shown, text=_read_url(name, shown, patience)))
        else:
            data = _read_file(environment, Path(name), patience)
            attachments.append(Attachment(name=name, text=_decode(environment, data, name)))
    return tuple(attachments)


def read_media(
    environment: Environment, names: list[str], *, patience: Patience
) -> tuple[MessagePart, ...]:
    """Read the images and PDF documents a question is about.

    Args:
        environment: the streams.
        names: paths; `-` is stdin; a URL is left to the vendor to fetch.
        patience: how long stdin is waited for.

    Raises:
        UsageError: one is neither an image nor a PDF, too large, or cannot be read.
    """
    from tieredllm.types import Document, Image

    parts: list[MessagePart] = []
    for name in names:
        if _is_url(name):
            is_pdf = _path_of(name).endswith(".pdf")
            parts.append(Document(url=name) if is_pdf else Image(url=name))
            continue
        if name == "-":
            data = _read_stdin_bytes(environment, patience)
        else:
            data = _read_file(environment, Path(name), patience, binary=True)
        kind = media_type(data)
        if kind is None:
            raise UsageError(
                f"{name} is neither an image (PNG, JPEG, GIF, WebP) nor a PDF: "
                f"`-f {name}` attaches a text"
            )
        if kind == "application/pdf":
            parts.append(Document(media_type=kind, data=bytes(data), name=Path(name).name))
        else:
            parts.append(Image(media_type=kind, data=bytes(data)))
    return tuple(parts)


def read_any(
    environment: Environment, name: str
) -> tuple[tuple[Attachment, ...], tuple[MessagePart, ...]]:
    """Read a file that is a text, an image or a PDF.

    Args:
        environment: where warnings go.
        name: its path, or its URL; that of an image or a PDF ends as such a file's name does.

    Raises:
        UsageError: it is none of them, too large, or cannot be read.
    """
    patience = Patience()
    if _is_url(name):
        is_media = _path_of(name).endswith(MEDIA_SUFFIXES)
    else:
        is_media = (
            media_type(_read_file(environment, Path(name), patience, binary=True)) is not None
        )
    if is_media:
        return (), read_media(environment, [name], patience=patience)
    return read_files(environment, [name], patience=patience), ()


def _is_url(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _path_of(url: str) -> str:
    """Return a URL without its query, in lower case."""
    return url.partition("?")[0].partition("#")[0].lower()


@contextlib.contextmanager
def open_url(url: str, *, silence_s: float, redirects: int = 0) -> Iterator[httpx.Response]:
    """Ask for what is at an address that the user named, wherever that is; its body is to be read.

    It goes the way, and trusts whom, the vendors' tiers do.

    Args:
        url: its address.
        silence_s: the longest silence of its server, in seconds.
        redirects: how many are followed.

    Raises:
        UnusableProxyError: a variable names a proxy that cannot be used.
        httpx.HTTPError: it cannot be reached; besides, what httpx lets through of others.
    """
    from tieredllm.notify.http_post import trusting
    from tieredllm.providers.http import spare_httpx_its_command_line
    from tieredllm.proxies import proxy_for

    spare_httpx_its_command_line()
    import httpx

    proxy = proxy_for(url)
    with (
        httpx.Client(
            verify=trusting(),
            proxy=None if proxy is None else proxy.url,
            trust_env=False,
            follow_redirects=redirects > 0,
            max_redirects=redirects,
            timeout=silence_s,
            headers={
                "User-Agent": "tieredllm",
                "Accept": "text/*, application/json, */*;q=0.5",
                "Accept-Encoding": "identity",
            },
        ) as client,
        client.stream("GET", url) as response,
    ):
        yield response


def _read_url(url: str, shown: str, patience: Patience) -> str:
    """Fetch a text, as `curl -L` would: from any address, for it was the user who named it.

    A page of HTML becomes the text that is in it.

    Args:
        url: its address.
        shown: what may be said of it.
        patience: how long it is waited for.

    Raises:
        UsageError: it is too large, no text, or cannot be fetched.
    """
    from urllib.parse import urlsplit

    from tieredllm.notify.http_post import network_error
    from tieredllm.providers.http import spare_httpx_its_command_line
    from tieredllm.proxies import UnusableProxyError
    from tieredllm.redaction import mask_url
    from tieredllm.tools.base import ToolFailureError
    from tieredllm.tools.builtin.fetch_url import Page, read_page

    spare_httpx_its_command_line()
    import httpx

    until = time.monotonic() + patience.total_s
    silence_s = min(URL_SILENCE_S, patience.total_s, patience.silence_s)
    try:
        if not urlsplit(url).hostname:
            raise UsageError(f"cannot fetch {shown}: it names no host")
        with open_url(url, silence_s=silence_s, redirects=MAX_REDIRECTS) as response:
            packed = response.headers.get("content-encoding", "identity")
            if packed.strip().lower() != "identity":  # a few bytes could unpack to anything
                raise UsageError(f"cannot read {shown}: it is packed ({packed}), unasked")
            pieces = response.iter_raw(CHUNK_BYTES)

            def read_next() -> bytes:
                if time.monotonic() > until:
                    raise TieredLLMError(f"{shown} was not there within {patience.total_s:g} s")
                return next(pieces, b"")

            page = Page(
                url=mask_url(str(response.url)),
                status=response.status_code,
                content_type=response.headers.get("content-type", "").strip().lower(),
                body=bytes(_read(read_next, shown, binary=True)),
                whole=True,
            )
        if media_type(page.body) is not None:
            raise UsageError(f"{shown} is no text: `-a {shown}` attaches an image or a PDF")
        return read_page(page)[1]
    except ToolFailureError as exc:  # which names the page
        raise UsageError(str(exc)) from exc
    except UnusableProxyError as exc:
        raise UsageError(f"cannot read {shown}: {exc}") from exc
    except (httpx.TooManyRedirects, httpx.InvalidURL) as exc:
        raise UsageError(f"cannot fetch {shown}: {exc}") from exc
    except httpx.TimeoutException as exc:
        raise UsageError(f"cannot fetch {shown}: no answer for {silence_s:g} s") from exc
    except (httpx.HTTPError, OSError, ValueError, ImportError) as exc:
        raise UsageError(f"cannot fetch {shown}: {network_error(exc)}") from exc


def _read_stdin_bytes(environment: Environment, patience: Patience) -> bytearray:
    if environment.stdin is None or environment.stdin.closed:
        raise UsageError("-a -: stdin is closed")
    try:
        descriptor = environment.stdin.fileno()
        return _read_descriptor(environment, descriptor, "stdin", patience, binary=True)
    except OSError as exc:
        raise UsageError(f"cannot read stdin: {exc.strerror or exc}") from exc


def _read_file(
    environment: Environment, path: Path, patience: Patience, *, binary: bool = False
) -> bytearray:
    name = str(path)
    try:
        descriptor = os.open(path.expanduser(), READING)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise UsageError(f"cannot read {path}: it is a directory")
            # A shell's <(command) is a pipe that the shell itself has opened.
            if not stat.S_ISREG(mode) and not (stat.S_ISFIFO(mode) and _is_of_shell(name)):
                raise UsageError(f"cannot read {path}: it is no plain file (`-f -` reads stdin)")
            if hasattr(os, "set_blocking"):
                os.set_blocking(descriptor, True)
            return _read_descriptor(environment, descriptor, name, patience, binary=binary)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (RuntimeError, ValueError) as exc:  # no such user's home; a NUL in the name
        raise UsageError(f"cannot read {path}: {exc}") from exc


def _is_of_shell(name: str) -> bool:
    return name.startswith(("/dev/fd/", "/proc/self/fd/"))


def _read_stdin(environment: Environment, patience: Patience) -> str:
    stdin = environment.stdin
    if stdin is None or stdin.closed:
        return ""
    buffer = getattr(stdin, "buffer", None)
    if buffer is None:
        return stdin.read()
    try:
        descriptor = stdin.fileno()
    except (OSError, ValueError):
        return _decode(environment, _read(lambda: buffer.read(CHUNK_BYTES), "stdin"), "stdin")
    if environment.is_interactive:
        patience = Patience()  # somebody is typing
    try:
        data = _read_descriptor(environment, descriptor, "stdin", patience)
    except OSError as exc:
        raise UsageError(f"cannot read stdin: {exc.strerror or exc}") from exc
    return _decode(environment, data, "stdin")


def _read_descriptor(
    environment: Environment,
    descriptor: int,
    name: str,
    patience: Patience,
    *,
    binary: bool = False,
) -> bytearray:
    wait = _waiter(environment, descriptor, name, patience)

    def read_next() -> bytes:
        wait()
        return os.read(descriptor, CHUNK_BYTES)

    return _read(read_next, name, binary=binary)


def _waiter(
    environment: Environment, descriptor: int, name: str, patience: Patience
) -> Callable[[], None]:
    """Make what waits for the next bytes, and says so: a script may have left stdin open."""
    way_out = " (--no-stdin or `< /dev/null` does without)" if name == "stdin" else ""
    started = time.monotonic()
    told = False

    def wait() -> None:
        nonlocal told
        silent_since = time.monotonic()
        while True:
            now = time.monotonic()
            left_s = min(started + patience.total_s - now, silent_since + patience.silence_s - now)
            if left_s <= 0:
                waited_s = min(patience.total_s, patience.silence_s)
                raise TieredLLMError(
                    f"{name} did not end within the deadline of {waited_s:g} s{way_out}"
                )
            try:
                # Short enough to say what is waited for, and then for the deadline.
                ready, _, _ = select.select(
                    [descriptor], [], [], min(left_s, 3600.0 if told else QUIET_STDIN_S)
                )
            except (OSError, ValueError):  # Windows selects sockets only: it waits as it can
                return
            if ready:
                return
            if (
                not told
                and not environment.is_interactive
                and time.monotonic() - silent_since >= QUIET_STDIN_S
            ):
                told = True
                environment.say(f"tieredllm: waiting for text on {name}{way_out}")

    return wait


def _read(read_next: Callable[[], bytes], name: str, *, binary: bool = False) -> bytearray:
    """Read to the end, and never more than a little beyond the bound.

    Args:
        read_next: gives the next bytes; none at the end.
        name: what is read, for messages.
        binary: whether it may be no text.

    Raises:
        UsageError: there is more, or it is no text.
    """
    data = bytearray()
    while chunk := read_next():
        seen = len(data)
        data += chunk
        if len(data) > MAX_BYTES:
            raise UsageError(
                f"{name} is over {MAX_BYTES // 1024 // 1024} MB: give the part that matters"
            )
        if len(data) >= LONGEST_MARK and not binary:
            _refuse_binary(data, name, max(seen - LONGEST_MARK, 0))
    if not binary:
        _refuse_binary(data, name)
    return data


def _refuse_binary(data: bytearray, name: str, start: int = 0) -> None:
    at = data.find(b"\0", start)
    if at >= 0 and _marked(data) is None:
        path = "-" if name == "stdin" else name
        hint = "`tr -d '\\0'` takes it out of a text"
        if media_type(data) is not None:
            hint = f"`-a {path}` attaches an image or a PDF"
        raise UsageError(f"{name} is no text: byte {at} is a NUL ({hint})")


def _marked(data: bytes | bytearray) -> str | None:
    """Return the encoding that a byte order mark tells; None for UTF-8."""
    return next((name for mark, name in UTF_16_32 if data.startswith(mark)), None)


def _decode(environment: Environment, data: bytes | bytearray, name: str) -> str:
    """Decode, a byte order mark left out, with replacement and a warning where it is no text."""
    encoding = _marked(data) or "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as exc:
        text = data.decode(encoding, errors="replace")
        shown = encoding.upper().removesuffix("-SIG")
        environment.warn(
            f"tieredllm: {name} is not {shown} (byte {exc.start}): "
            f"{text.count(chr(0xFFFD))} characters were replaced"
        )
        return text
