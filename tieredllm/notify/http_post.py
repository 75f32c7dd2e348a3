"""Send one JSON body with POST, and say what went wrong without naming the address.

With the standard library, because it blocks on a thread of its own (see `line`); proxies come from
the environment as usual, redirects are never followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tieredllm.notify.line import Line, SendError

if TYPE_CHECKING:
    import ssl
    from urllib.request import OpenerDirector

__all__ = ["network_error", "post", "trusting", "web_address"]

SHOWN_BODY_BYTES = 1024
"""How much of a refusal's body is looked at."""

_TRANSIENT = frozenset({408, 425, 429})


def web_address(url: str | None, variable: str) -> str:
    """Give a webhook's URL.

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


def post(url: str, body: bytes, line: Line, headers: Mapping[str, str] | None = None) -> None:
    """Send a JSON body; any 2xx status means that it has arrived.

    Args:
        url: from `web_address`.
        body: JSON.
        line: the time there is.
        headers: in addition to the usual ones.

    Raises:
        SendError: it has not arrived, as far as one can tell.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request

    plain, authorization = _without_user(url)
    request = Request(  # noqa: S310 - `web_address` lets http and https through, nothing else
        plain,
        data=body,
        method="POST",
        headers={
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "tieredllm",
            "Accept": "*/*",
            **authorization,
            **(headers or {}),
        },
    )
    try:
        # The status says it all; a body that never ends must not make this a failure.
        _opener(line).open(request, timeout=line.left_s()).close()
    except HTTPError as exc:
        with exc:
            raise _refusal(exc, url) from None
    except URLError as exc:
        raise network_error(exc.reason, line) from None
    except (OSError, HTTPException, ValueError) as exc:
        raise network_error(exc, line) from None


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    """Turn a user and password in a URL into a header (RFC 7617)."""
    from urllib.parse import unquote, urlsplit, urlunsplit

    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    from base64 import b64encode

    token = b64encode(unquote(user).encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), {"Authorization": f"Basic {token}"}


def _opener(line: Line) -> OpenerDirector:
    """Make what opens URLs: its connections are the line's to cut, and it follows no redirect."""
    from http.client import HTTPConnection, HTTPSConnection
    from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, build_opener

    def held(kind: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            connection = kind(*args, **kwargs)
            line.holds(lambda: connection.sock)
            return connection

        return make

    class Plain(HTTPHandler):
        def http_open(self, request: Any) -> Any:
            return self.do_open(held(HTTPConnection), request)

    class Secure(HTTPSHandler):
        def https_open(self, request: Any) -> Any:
            return self.do_open(held(HTTPSConnection), request, context=trusting())

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    return build_opener(Plain, Secure, NoRedirects)


def trusting() -> ssl.SSLContext:
    """Make what verifies certificates: by the system's and by the usual authorities."""
    import contextlib
    import ssl

    context = ssl.create_default_context()
    with contextlib.suppress(ImportError, OSError):  # httpx brings it along
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _refusal(exc: Any, url: str) -> SendError:
    """Make the error for a status other than 2xx."""
    import time

    from tieredllm.providers.errors.retry_after import retry_after_s
    from tieredllm.redaction import presentable

    status: int = exc.code
    if 300 <= status < 400:
        return SendError(f"HTTP {status}: it redirects, and redirects are never followed")
    try:
        words = exc.read(SHOWN_BODY_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        words = ""
    words = presentable(words, _secrets(url))[:100]
    wait_s = retry_after_s({k.lower(): v for k, v in exc.headers.items()}, now=time.time())
    return SendError(
        f"HTTP {status}{': ' if words else ''}{words}",
        again=status >= 500 or status in _TRANSIENT,
        retry_after_s=wait_s,
    )


def _secrets(url: str) -> list[str]:
    """Give the parts of an address that a server's error page may repeat."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    pieces = [*parts.path.split("/"), *parts.query.replace("=", "&").split("&")]
    whole = [url, parts.path, parts.query, parts.netloc.rpartition("@")[0]]
    return [text for text in whole if len(text) > 1] + [text for text in pieces if len(text) > 7]


def network_error(reason: object, line: Line) -> SendError:
    """Make the error for a failure of the network; what the exception says may name the address."""
    import os
    import socket
    import ssl

    if isinstance(reason, TimeoutError):
        return line.too_late()
    if isinstance(reason, ssl.SSLCertVerificationError):
        words = f"its certificate cannot be verified: {reason.verify_message}"
    elif isinstance(reason, ssl.SSLError):
        words = f"TLS failed: {(reason.reason or 'no reason given').lower()}"
    elif isinstance(reason, socket.gaierror):
        words = "its name is not known, or there is no network"
    elif isinstance(reason, ConnectionRefusedError):
        words = "nothing listens there (connection refused)"
    elif isinstance(reason, ConnectionError):
        words = "the connection was closed without an answer"
    elif isinstance(reason, OSError) and reason.errno is not None:
        words = f"no connection: {os.strerror(reason.errno).lower()}"
    else:
        words = f"no usable answer ({type(reason).__name__})"
    return SendError(words)
