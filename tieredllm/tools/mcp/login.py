"""Log in to MCP servers that want it, and keep what they give: OAuth by the SDK's own client.

The browser leads back to a port of this machine (RFC 8252, 7.3). Tokens are kept in the state
directory, mode 0600, a file for each address; they are renewed as long as the server renews them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from tieredllm.files import atomic_write
from tieredllm.text import one_line
from tieredllm.tools.mcp.connection import UnavailableError

if TYPE_CHECKING:
    from mcp.client.auth import OAuthClientProvider
    from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

__all__ = ["LoginFile", "Loopback", "auth_of", "new_auth"]

LOGIN_S = 300.0
"""How long a person has to log in."""

Show = Callable[[str], Awaitable[None]]
"""Shows a person the address to log in at."""

_DONE = "You are logged in. This window can be closed.\n"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a login gave."""

    url: str
    tokens: dict[str, Any] | None = None
    expires_at: float | None = None
    """When the token ends, seconds since the epoch; None when nobody said."""
    client: dict[str, Any] | None = None
    """Who this program is to the server that gives tokens."""
    metadata: dict[str, Any] | None = None
    """Where that server is; the SDK looks for it only while a person logs in."""


class LoginFile:
    """The login of one server: the SDK's `TokenStorage`.

    Args:
        folder: where logins are kept.
        url: the server's address.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._url = url
        digest = hashlib.sha256(url.encode()).hexdigest()[:32]
        self.path = folder / f"{digest}.json"
        self.kept = Kept(url=url)
        with suppress(OSError, msgspec.DecodeError, ValueError):
            self.kept = msgspec.json.decode(self.path.read_bytes(), type=Kept)

    def begin(self) -> None:
        """Forget an earlier login, though not on the disk."""
        self.kept = Kept(url=self._url)

    def keep(self, **changes: Any) -> None:
        """Keep more of it.

        Raises:
            OSError: it cannot be kept.
        """
        self.kept = msgspec.structs.replace(self.kept, **changes)
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write(self.path, msgspec.json.encode(self.kept), private=True)

    async def get_tokens(self) -> OAuthToken | None:
        """Return the tokens."""
        from mcp.shared.auth import OAuthToken

        return None if self.kept.tokens is None else OAuthToken.model_validate(self.kept.tokens)

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep tokens."""
        lasts_s = tokens.expires_in
        self.keep(
            tokens=tokens.model_dump(mode="json", exclude_none=True),
            expires_at=None if lasts_s is None else time.time() + lasts_s,
        )

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Return who this program is to the server."""
        from mcp.shared.auth import OAuthClientInformationFull

        if self.kept.client is None:
            return None
        return OAuthClientInformationFull.model_validate(self.kept.client)

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep who this program is to the server."""
        self.keep(client=client_info.model_dump(mode="json", exclude_none=True))


def auth_of(folder: Path, url: str) -> OAuthClientProvider | None:
    """Return what signs requests with an earlier login; None where there was none.

    Nobody is asked to log in anew: a login that has ended is an error of HTTP.

    Args:
        folder: where logins are kept.
        url: the server's address.
    """
    login = LoginFile(folder, url)
    if login.kept.tokens is None:
        return None
    from mcp.client.auth import OAuthClientProvider
    from mcp.shared.auth import OAuthMetadata

    provider = OAuthClientProvider(url, _about("http://127.0.0.1/"), login)
    provider.context.token_expiry_time = login.kept.expires_at
    if login.kept.metadata is not None:
        provider.context.oauth_metadata = OAuthMetadata.model_validate(login.kept.metadata)
    return provider


def new_auth(folder: Path, url: str, loopback: Loopback, show: Show) -> OAuthClientProvider:
    """Return what logs in when the server wants it, and signs requests from then on.

    Args:
        folder: where the login is kept.
        url: the server's address.
        loopback: where the browser comes back to.
        show: shows the address to log in at.
    """
    from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider

    login = LoginFile(folder, url)
    login.begin()

    async def show_address(address: str) -> None:
        metadata = provider.context.oauth_metadata
        if metadata is not None:
            login.keep(metadata=metadata.model_dump(mode="json", exclude_none=True))
        await show(address)

    async def come_back() -> AuthorizationCodeResult:
        given = await loopback.answer()
        if "code" not in given:
            reason = given.get("error_description") or given.get("error") or "no code came back"
            raise UnavailableError(f"the login was refused: {one_line(reason, 200)}")
        return AuthorizationCodeResult(
            code=given["code"], state=given.get("state"), iss=given.get("iss")
        )

    provider = OAuthClientProvider(url, _about(loopback.url), login, show_address, come_back)
    return provider


def _about(redirect: str) -> OAuthClientMetadata:
    from mcp.shared.auth import OAuthClientMetadata

    return OAuthClientMetadata.model_validate(
        {
            "client_name": "tieredllm",
            "redirect_uris": [redirect],
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "none",
        }
    )


class Loopback:
    """A port of this machine that a browser is led back to, once."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._given: asyncio.Future[dict[str, str]] | None = None
        self.url = ""

    async def __aenter__(self) -> Loopback:
        """Listen on a free port."""
        self._given = asyncio.get_running_loop().create_future()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/callback"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def answer(self) -> dict[str, str]:
        """Return what the browser brought.

        Raises:
            TimeoutError: nobody logged in.
        """
        assert self._given is not None  # noqa: S101 - it is entered first
        async with asyncio.timeout(LOGIN_S):
            return await self._given

    def take(self, address: str) -> bool:
        """Take the address that a browser was led back to; return whether it says anything."""
        query = parse_qs(urlsplit(address.strip()).query)
        answers = "code" in query or "error" in query
        if self._given is not None and not self._given.done() and answers:
            self._given.set_result({name: values[0] for name, values in query.items()})
        return answers

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(10):
                request = (await reader.readline()).decode("latin-1").split(" ")
            wanted = len(request) > 1 and request[1].startswith("/callback?")
            status, text = ("200 OK", _DONE) if wanted else ("404 Not Found", "")
            head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
            await writer.drain()
            if wanted:
                self.take(request[1])
        writer.close()
