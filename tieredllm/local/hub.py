"""Download a file from the Hugging Face hub, going on where an earlier download stopped.

`huggingface_hub` knows the hub: where it is (`HF_ENDPOINT`), who asks (`HF_TOKEN`, or a login), and
how it tells a file's size and SHA-256 (the ETag of a file in LFS; see
https://huggingface.co/docs/huggingface_hub/package_reference/file_download). The bytes are written
here, so that they are where they can be gone on from, and their rate can be told.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from tieredllm.errors import ModelFileError
from tieredllm.local.progress import Progress, ProgressCallback
from tieredllm.local.stores import REPOSITORY
from tieredllm.proxies import proxy_for
from tieredllm.redaction import mask_url
from tieredllm.text import one_line
from tieredllm.version import __version__

if TYPE_CHECKING:
    import httpx

__all__ = [
    "HubFile",
    "NotThereError",
    "Repository",
    "describe",
    "describe_url",
    "fetch_hub",
    "is_plain_file",
    "look_up",
]

CONNECT_S, SILENCE_S, METADATA_S = 10.0, 30.0, 15.0
TRIES = 4
"""Tries in a row that may bring nothing; one that brought something starts the count again."""
WAITS_S = (1.0, 2.0, 4.0)
RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class NotThereError(ModelFileError):
    """Report that a repository cannot be read or has no such file: another source may do."""


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub says about a repository."""

    name: Annotated[str, Meta(pattern=f"^{REPOSITORY}$")]
    """Its name today; a renamed one is found by its old name, too."""
    sizes: dict[str, Annotated[int, Meta(ge=0)]]
    """Its files and their bytes, 0 where the hub does not tell."""
    licence: str | None
    task: str | None
    """What its models are for, in the hub's words (`pipeline_tag`)."""


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file before it is downloaded."""

    shown: str
    """What it is called in messages."""
    url: str
    headers: dict[str, str]
    """Who asks; may hold a token."""
    size_bytes: int
    sha256: str | None
    """None when nobody tells it."""


def look_up(repository: str, *, revision: str = "main", env: Mapping[str, str]) -> Repository:
    """Ask the hub for the files of a repository.

    Raises:
        NotThereError: the repository is gated, private or gone.
        ModelFileError: the hub cannot be reached or answers nonsense.
    """
    endpoint = _endpoint(env)
    with _asking(endpoint, repository, None, env):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint, library_name="tieredllm", library_version=__version__)
        found = api.model_info(
            repository,
            revision=revision,
            files_metadata=True,
            timeout=METADATA_S,
            token=_token(env),
        )
        licence = found.card_data.get("license") if found.card_data is not None else None
        sizes = {each.rfilename: each.size or 0 for each in found.siblings or ()}
        told = {
            "name": found.id,
            "sizes": {file: size for file, size in sizes.items() if is_plain_file(file)},
            "licence": licence if isinstance(licence, str) else None,
            "task": found.pipeline_tag,
        }
        return msgspec.convert(told, Repository)


def is_plain_file(name: str) -> bool:
    """Return whether a name that came from outside is that of a file below the folder it is for."""
    parts = PurePosixPath(name).parts
    return name.isprintable() and not ({"..", "/", "//"} & set(parts) or set(":\\") & set(name))


def describe_url(url: str) -> HubFile:
    """Ask any server for the size of a file.

    Raises:
        ModelFileError: it cannot be reached, refuses, or does not tell.
    """
    import httpx

    try:
        with _client(url, METADATA_S) as client:
            found = client.head(url, headers={"Accept-Encoding": "identity"})
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:  # the last of a host's name
        raise _unreachable(url, exc, "the address") from exc
    size = found.headers.get("Content-Length", "")
    if found.status_code != 200 or not size.isdecimal():
        raise ModelFileError(
            f"{mask_url(url)} answered {found.status_code}"
            + (" and does not tell its size" if found.status_code == 200 else "")
            + ": download it yourself, then `tieredllm models add FILE`"
        )
    return HubFile(
        shown=mask_url(url),
        url=url,
        headers={"Accept-Encoding": "identity"},
        size_bytes=int(size),
        sha256=None,
    )


def _client(url: str, timeout: httpx.Timeout | float) -> httpx.Client:
    """Make a client that goes the way the environment names, as answers do.

    Raises:
        UnusableProxyError: it names none that can be used.
    """
    import httpx

    proxy = proxy_for(url)
    return httpx.Client(
        timeout=timeout,
        follow_redirects=True,
        proxy=None if proxy is None else proxy.url,
        verify=httpx.create_ssl_context(),
        trust_env=False,
    )


def _endpoint(env: Mapping[str, str]) -> str:
    """Return the hub's address.

    Raises:
        ModelFileError: the one that is named is none; `huggingface_hub` cannot be imported then.
    """
    named = env.get("HF_ENDPOINT", "").rstrip("/")
    if not named:
        from huggingface_hub import constants

        default: str = constants.ENDPOINT
        return default.rstrip("/")
    try:
        parts = urlsplit(named)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ModelFileError(
            f"HF_ENDPOINT is {mask_url(named)!r}, which is no http:// or https:// address"
        )
    return named


def _token(env: Mapping[str, str]) -> str | None:
    """Return who asks.

    Raises:
        ModelFileError: it is nothing that a request can say.
    """
    token = env.get("HF_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()):
        raise ModelFileError("HF_TOKEN holds signs that no token has: set it anew, then pull again")
    return token or None


def describe(
    repository: str, file: str, *, revision: str = "main", env: Mapping[str, str]
) -> HubFile:
    """Ask the hub for a file's size and SHA-256.

    Raises:
        NotThereError: the repository is gated, private or gone, or has no such file.
        ModelFileError: the hub cannot be reached or answers nonsense.
    """
    endpoint = _endpoint(env)
    asker: dict[str, Any] = {
        "token": _token(env),
        "library_name": "tieredllm",
        "library_version": __version__,
    }
    with _asking(endpoint, repository, file, env):
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(repository, file, revision=revision, endpoint=endpoint)
        headers: dict[str, str] = build_hf_headers(**asker)
        found = get_hf_file_metadata(url, timeout=METADATA_S, endpoint=endpoint, **asker)
    sha256 = (found.etag or "").lower()
    if not re.fullmatch("[0-9a-f]{64}", sha256) or (found.size or 0) < 1:
        raise ModelFileError(
            f"{mask_url(endpoint)} does not tell the size and SHA-256 of {repository}/{file}"
        )
    return HubFile(
        shown=f"{repository}/{file}",
        url=url,
        headers={**headers, "Accept-Encoding": "identity"},
        size_bytes=found.size,
        sha256=sha256,
    )


@contextlib.contextmanager
def _asking(
    endpoint: str, repository: str, file: str | None, env: Mapping[str, str]
) -> Iterator[None]:
    """Translate what goes wrong while the hub is asked for a repository, or for a file of it.

    Raises:
        NotThereError: the repository is gated, private or gone, or has no such file.
        ModelFileError: the hub cannot be reached or answers nonsense.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    shown = mask_url(endpoint)
    try:
        yield
    except HfHubHTTPError as exc:
        status = getattr(getattr(exc, "response", None), "status_code", None)
        if status in (401, 403):
            has_token = "another token in" if env.get("HF_TOKEN") else "a token in"
            raise NotThereError(
                f"the hub does not give out {repository} ({status}): accept its licence at "
                f"{shown}/{repository}, put {has_token} HF_TOKEN, then pull again"
            ) from exc
        if status == 404:
            gone = f"there is no {shown}/{repository}"
            missing = gone if file is None else f"{shown}/{repository} has no file {file}"
            raise NotThereError(f"{missing} (404)") from exc
        message = f"{shown} answered {status} for {repository}: pull again later"
        raise ModelFileError(message) from exc
    except (HTTPError, OSError) as exc:
        raise _unreachable(endpoint, exc) from exc
    except HFValidationError as exc:
        message = f"there is no {shown}/{repository}: {one_line(str(exc))}"
        raise NotThereError(message) from exc
    except (ValueError, KeyError, TypeError, AttributeError, msgspec.ValidationError) as exc:
        message = f"{shown} does not answer for {repository} as a hub does: check HF_ENDPOINT"
        raise ModelFileError(message) from exc


def _unreachable(address: str, exc: Exception, setting: str = "HF_ENDPOINT") -> ModelFileError:
    why = one_line(str(exc), 200) or type(exc).__name__
    return ModelFileError(
        f"{mask_url(address)} cannot be reached ({why}): check the network or {setting}, "
        "then pull again; it goes on where it stopped"
    )


def fetch_hub(
    found: HubFile,
    part: Path,
    *,
    progress: ProgressCallback,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download a file to `part`, after what is there already.

    On failure `part` stays, to be gone on from.

    Raises:
        ModelFileError: the hub cannot be reached or fails, again and again.
    """
    import httpx

    timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
    failures = 0
    # A redirect to another host does not get the token: httpx drops `Authorization` there.
    with _client(found.url, timeout) as client:
        while True:
            before = _size(part)
            try:
                _continue(client, found, part, progress)
            # A redirect may lead to an invalid URL.
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError) as exc:
                if _size(part) > before:
                    failures = 0
                failures += 1
                if failures >= TRIES:
                    raise _unreachable(found.url, exc) from exc
                sleep(WAITS_S[min(failures, len(WAITS_S)) - 1])
            else:
                return


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except OSError:
        return 0


def _continue(client: httpx.Client, found: HubFile, part: Path, progress: ProgressCallback) -> None:
    """Ask for what is missing, and append it."""
    import httpx

    have = _size(part)
    if have > found.size_bytes:
        part.unlink()
        have = 0
    if have == found.size_bytes:
        return
    headers = dict(found.headers)
    if have:
        headers["Range"] = f"bytes={have}-"
    with client.stream("GET", found.url, headers=headers) as response:
        if response.status_code in RETRIED_STATUS:
            raise httpx.HTTPError(f"it answered {response.status_code}")
        if response.status_code == 416:  # what is there is no beginning of that file
            part.unlink()
            raise httpx.HTTPError("it has no such range of the file")
        if response.status_code not in (200, 206):
            raise ModelFileError(
                f"{found.shown}: the server answered {response.status_code}: pull again later"
            )
        start = _start(response) if response.status_code == 206 else 0
        if start > have:
            raise httpx.HTTPError("it sent another range than was asked for")
        with part.open("r+b" if have else "wb") as target:
            target.truncate(start)
            target.seek(start)
            done = start
            for chunk in response.iter_raw():  # as it comes: a chunk size would hold some back
                done += len(chunk)
                if done > found.size_bytes:
                    raise ModelFileError(
                        f"{found.shown}: the server sent more than the {found.size_bytes} bytes it "
                        "named: pull again later"
                    )
                target.write(chunk)
                progress(Progress(step="download", done_bytes=done, total_bytes=found.size_bytes))
    if done < found.size_bytes:
        raise httpx.HTTPError(f"the connection ended after {done} of {found.size_bytes} bytes")


def _start(response: Any) -> int:
    """Return where a partial answer starts (RFC 9110, section 14.4)."""
    found = re.match(r"bytes (\d{1,15})-", response.headers.get("content-range", ""))
    return int(found.group(1)) if found else 2**63
