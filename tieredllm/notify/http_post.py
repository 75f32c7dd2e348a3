"""Send one JSON body with POST, and say what went wrong without naming the address.

Proxies come from the environment as usual, redirects are never followed. The time is bounded by
whoever cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tieredllm.aio import in_thread
from tieredllm.notify.channels import SendError
from tieredllm.proxies import UnusableProxyError, proxy_for

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["network_error", "post", "trusting", "web_address"]

SHOWN_BODY_BYTES = 1024
"""How much of a refusal's body is looked at."""

REFUSAL_S = 0.3
"""How long a refusal's body may take: its first words are there when the status is."""

_TRANSIENT = frozenset({408, 425, 429})


def web_address(url: str | None, variable: str) -> str:
    """Return a webhook's URL.

    Args:
        url: what the variable holds.
        variable: its name, for the error.

    Raises:
        SendError: it is not set, or no http(s) URL.
    """
    from urllib.parse import urlsplit

    if url is None:
        raise SendError(f"{variable} is not set")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise SendError(f"what {variable} holds is no http:// or https:// address")
    return url


async def post(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Send a JSON body; any 2xx status means that it has arrived.

    Args:
        url: from `web_address`; a user and password in it become a header (RFC 7617).
        body: JSON.
        headers: in addition to the usual ones.

    Raises:
        SendError: it has not arrived, as far as one can tell.
    """
    try:
        # Loading certificates takes some 30 ms.
        async with await in_thread(lambda: _client(url), name="tieredllm-notify") as client:
            request = client.build_request("POST", url, content=body, headers=headers)
            response = await client.send(request, stream=True)
            try:
                # The status says it all; a body that never ends must not make this a failure.
                if not response.is_success:
                    raise await _refusal(response, url)
            finally:
                await response.aclose()
    except SendError:
        raise
    except UnusableProxyError as exc:
        raise SendError(str(exc)) from None
    except Exception as exc:  # noqa: BLE001 - httpx's, the system's, a proxy that needs a package
        raise network_error(exc) from None


def _client(url: str) -> httpx.AsyncClient:
    import ssl

    from tieredllm.providers.http import spare_httpx_its_command_line

    spare_httpx_its_command_line()
    import httpx

    proxy = proxy_for(url)
    return httpx.AsyncClient(
        headers={
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "tieredllm",
            "Accept": "*/*",
            "Accept-Encoding": "identity",  # of a body, what is looked at is its first kilobyte
        },
        verify=(
            trusting()
            if "https:" in (url[:6].lower(), proxy.url[:6].lower() if proxy else "")
            else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and is not used
        ),
        proxy=None if proxy is None else proxy.url,
        trust_env=False,
        timeout=None,  # noqa: S113 - whoever waits bounds it, from the lookup to the status
    )


def trusting() -> ssl.SSLContext:
    """Make what verifies certificates: by the system's and by the usual authorities."""
    import contextlib
    import ssl

    context = ssl.create_default_context()
    with contextlib.suppress(ImportError, OSError):  # httpx brings it along
        import certifi

        context.load_verify_locations(certifi.where())
    return context


async def _refusal(response: httpx.Response, url: str) -> SendError:
    """Make the error for a status other than 2xx."""
    import time

    from tieredllm.providers.errors.retry_after import retry_after_s
    from tieredllm.redaction import presentable

    status = response.status_code
    if 300 <= status < 400:
        return SendError(f"HTTP {status}: it redirects, and redirects are never followed")
    body = await _beginning(response)
    words = presentable(body.decode("utf-8", "replace"), _secrets(url))[:100]
    return SendError(
        f"HTTP {status}{': ' if words else ''}{words}",
        again=status >= 500 or status in _TRANSIENT,
        retry_after_s=retry_after_s(response.headers, now=time.time()),
    )


async def _beginning(response: httpx.Response) -> bytes:
    """Read what there is of the first `SHOWN_BODY_BYTES`; never fails."""
    import asyncio
    import contextlib

    import httpx

    body = b""
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(REFUSAL_S):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= SHOWN_BODY_BYTES:
                    break
    return body[:SHOWN_BODY_BYTES]


def _secrets(url: str) -> list[str]:
    """Return the parts of an address that a server's error page may repeat."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    pieces = [*parts.path.split("/"), *parts.query.replace("=", "&").split("&")]
    whole = [url, parts.path, parts.query, parts.netloc.rpartition("@")[0]]
    return [text for text in whole if len(text) > 1] + [text for text in pieces if len(text) > 7]


def network_error(exc: Exception) -> SendError:
    """Make the error for a failure of the network; what the exception says may name the address."""
    import os
    import socket
    import ssl

    from tieredllm.providers.errors.transport import system_causes

    reason = next(iter(system_causes(exc)), None)
    if isinstance(reason, ssl.SSLCertVerificationError):
        words = f"its certificate cannot be verified: {reason.verify_message}"
    elif isinstance(reason, ssl.SSLError):
        words = f"TLS failed: {(reason.reason or 'no reason given').lower()}"
    elif isinstance(reason, socket.gaierror):
        words = "its name is not known, or there is no network"
    elif isinstance(reason, ConnectionRefusedError):
        words = "nothing listens there (connection refused)"
    elif isinstance(reason, ConnectionError) or (reason is None and _is_closed(exc)):
        words = "the connection was closed without an answer"
    elif reason is not None and reason.errno is not None:
        words = f"no connection: {os.strerror(reason.errno).lower()}"
    elif isinstance(exc, ImportError):
        words = "the proxy in the environment is a SOCKS proxy: pip install 'httpx[socks]'"
    else:
        words = f"no usable answer ({type(exc).__name__})"
    return SendError(words)


def _is_closed(exc: Exception) -> bool:
    """Tell whether the other side ended the connection, or the TLS on it."""
    import ssl

    return isinstance(exc, ssl.SSLError) or type(exc).__name__ in {
        "ConnectError",
        "ReadError",
        "WriteError",
        "RemoteProtocolError",
    }
