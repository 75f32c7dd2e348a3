"""Decide what an exception of the HTTP client is.

Before a response has begun there is nothing but the exception; what it means once output has begun
is for `accumulator` to say.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.providers.request_info import RequestInfo
from tieredllm.proxies import UnusableProxyError

__all__ = ["classify_exception", "system_causes"]

_KINDS: dict[str, ErrorKind] = {
    # The network gave way: see `_connection` for whether it is worth another try.
    "NetworkError": ErrorKind.CONNECTION,
    "ProxyError": ErrorKind.CONNECTION,
    # A route that swallows what is sent is a silent one.
    "TimeoutException": ErrorKind.TIMEOUT,
    # The body is not what its Content-Encoding says.
    "DecodingError": ErrorKind.MALFORMED_RESPONSE,
    # The profile's mistake: no retry mends it.
    "InvalidURL": ErrorKind.BAD_REQUEST,
    "UnsupportedProtocol": ErrorKind.BAD_REQUEST,
}
"""What the families of httpx's exceptions are, but for those of `_protocol`; others are never
raised by what is asked of httpx here."""

_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})
"""OpenSSL's X509_V_ERR_ codes of a chain that ends nowhere known: self-signed, itself or in the
chain; no issuer; the first certificate alone (openssl/x509_vfy.h)."""

# Nothing is there to be reached, now or in a moment.
_HOPELESS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EADDRNOTAVAIL,
        errno.ENETDOWN,
        errno.EACCES,
        errno.EPERM,
    }
)

_OF_FILES = frozenset({"X509", "PEM"})
"""The parts of OpenSSL that read certificates from files (seen with 3.0.19); what a server sends is
judged by its part `SSL`."""

_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
"""This process has none left, or the system: no server is to blame."""


def classify_exception(info: RequestInfo, exc: BaseException) -> FallbackTriggerError:
    """Decide what went wrong when no response, or no more of it, came.

    Args:
        info: the request.
        exc: what the HTTP client, or making one, raised.
    """
    if isinstance(exc, FallbackTriggerError):
        return exc
    causes = list(_causes(exc))
    if (error := _of_the_system(info, exc)) is not None:
        return error
    if not type(exc).__module__.startswith("httpx"):
        return _foreign(info, exc)
    name = type(exc).__name__
    if name in ("ProtocolError", "RemoteProtocolError"):
        return _protocol(info, causes)
    kind = next(
        (_KINDS[base.__name__] for base in type(exc).__mro__ if base.__name__ in _KINDS),
        ErrorKind.UNEXPECTED,
    )
    if kind is ErrorKind.CONNECTION:
        return _connection(info, name, exc, causes)
    message = {
        ErrorKind.TIMEOUT: f"{_end_of(info)} could not be reached in time",
        ErrorKind.BAD_REQUEST: f"base_url is not a usable http:// or https:// address: {exc}",
        ErrorKind.MALFORMED_RESPONSE: f"{info.host} sent a body that is not encoded as it says",
    }.get(kind, f"{name}: {exc}")
    return FallbackTriggerError(kind, info.presentable(message))


def system_causes(exc: BaseException) -> Iterator[OSError]:
    """Yield what the system, a name lookup or TLS said, of an exception and its causes.

    Without what ends no handshake by itself but comes with every wait, and with a connection that
    was closed; and without errors that only sum up others.
    """
    import ssl

    passing = (
        ssl.SSLWantReadError,
        ssl.SSLWantWriteError,
        ssl.SSLEOFError,
        ssl.SSLZeroReturnError,
        ssl.SSLSyscallError,
    )
    for cause in _causes(exc):
        if isinstance(cause, passing) or not isinstance(cause, OSError):
            continue
        if cause.errno is not None or isinstance(cause, ssl.SSLError):
            yield cause


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Walk an exception, what caused it, and the members of groups; each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [exc]
    while waiting:
        found = waiting.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__]
        if isinstance(found, BaseExceptionGroup):
            waiting += found.exceptions


def _of_the_system(info: RequestInfo, exc: BaseException) -> FallbackTriggerError | None:
    """Judge by what the system or TLS said, where that alone decides."""
    import ssl

    for cause in system_causes(exc):
        if cause.errno in _NO_DESCRIPTOR:
            message = "no file descriptor is free to connect with (ulimit -n)"
            return FallbackTriggerError(ErrorKind.CONNECTION, message, again=False, counts=False)
        if isinstance(cause, ssl.SSLError) and cause.library in _OF_FILES:
            return _unreadable_authorities(info, "there is no certificate in it")
        if isinstance(cause, ssl.SSLError):
            return _tls(info, cause)
    return None


def _tls(info: RequestInfo, cause: BaseException) -> FallbackTriggerError:
    import ssl

    reason = str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause)
    what = (
        "has a certificate that cannot be verified"
        if isinstance(cause, ssl.SSLCertVerificationError)
        else "and TLS do not get along"
    )
    words = f"{info.host} {what}: {reason.lower().replace('_', ' ')}"
    if getattr(cause, "verify_code", None) in _UNKNOWN_AUTHORITY:
        words += _authority_hint()
    return FallbackTriggerError(ErrorKind.TLS, info.presentable(words + info.way))


def _unreadable_authorities(info: RequestInfo, why: str) -> FallbackTriggerError:
    message = f"the certificates (SSL_CERT_FILE?) cannot be read: {why}"
    return FallbackTriggerError(ErrorKind.TLS, info.presentable(message))


def _authority_hint() -> str:
    """Say how an authority of one's own is made known."""
    import os

    if os.environ.get("SSL_CERT_FILE"):
        return "; SSL_CERT_FILE does not hold the authority that signed it"
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if value := os.environ.get(name):
            return f"; {name} is not read here: set SSL_CERT_FILE={value}"
    return "; if a private authority signed it: SSL_CERT_FILE=its certificate's file"


def _connection(
    info: RequestInfo, name: str, exc: BaseException, causes: list[BaseException]
) -> FallbackTriggerError:
    end = _end_of(info)
    if name == "ProxyError":
        return FallbackTriggerError(
            ErrorKind.CONNECTION,
            info.presentable(f"{info.proxy or 'the proxy'} refused the way to {info.host}: {exc}"),
            again=False,
        )
    # An attempt on several addresses ends with one error for each; one that might pass is enough.
    system = [cause for cause in causes if isinstance(cause, OSError) and cause.errno is not None]
    if any(isinstance(cause, socket.gaierror) for cause in system):
        message, again = f"{end} is not a known name, or there is no network", False
    elif system and all(cause.errno in _HOPELESS for cause in system):
        refused = any(cause.errno == errno.ECONNREFUSED for cause in system)
        again = False
        message = f"nothing listens at {end}" if refused else f"there is no way to {end}"
    else:
        message, again = f"{info.host} broke the connection off{info.way}", True
    return FallbackTriggerError(ErrorKind.CONNECTION, info.presentable(message), again=again)


def _protocol(info: RequestInfo, causes: list[BaseException]) -> FallbackTriggerError:
    # httpcore raises its own error when a connection ends before a response; what h11 objected to
    # came in bytes that are no HTTP, or broke off within the body.
    objected = [cause for cause in causes if type(cause).__module__.startswith("h11")]
    if objected and "closed" not in str(objected[0]):
        return FallbackTriggerError(
            ErrorKind.MALFORMED_RESPONSE, f"what {info.host} sends is no valid HTTP{info.way}"
        )
    when = "before its end" if objected else "without an answer"
    return FallbackTriggerError(
        ErrorKind.CONNECTION,
        f"{info.host} closed the connection {when}{info.way}",
        again=True,
    )


def _end_of(info: RequestInfo) -> str:
    """Return what was connected to: the proxy's end of the way, where there is one."""
    return f"{info.proxy} for {info.host}" if info.proxy is not None else info.host


def _foreign(info: RequestInfo, exc: BaseException) -> FallbackTriggerError:
    """Judge what is not httpx's own: mostly what making a client raises."""
    if isinstance(exc, UnusableProxyError):
        return FallbackTriggerError(
            ErrorKind.CONNECTION, info.presentable(str(exc)), again=False, counts=False
        )
    if isinstance(exc, ImportError):
        return FallbackTriggerError(
            ErrorKind.CONNECTION,
            f"{info.proxy or 'the proxy'} is a SOCKS proxy: pip install 'httpx[socks]'",
            again=False,
        )
    if isinstance(exc, OSError):
        # The one file that is read on the way is that of the certificates.
        return _unreadable_authorities(info, str(exc.strerror))
    return FallbackTriggerError(
        ErrorKind.UNEXPECTED, info.presentable(f"{type(exc).__name__}: {exc}")
    )
