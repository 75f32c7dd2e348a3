"""What the tests of notifications share: answers, settings, and real servers on 127.0.0.1."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from store_support import FakeClock, answer, attempt

from tieredllm.keys import Keys
from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.notify.notifier import Notifier
from tieredllm.profile.schema import Notifications
from tieredllm.store.database import Database
from tieredllm.store.outbox import Outbox
from tieredllm.types import Answer

SECRET = "webhook-secret-0123456789"
PASSWORD = "mail-password-0123456789"
RULES_ID = "1a2b3c4d" * 4


def failure(tier: str, level: int, kind: ErrorKind = ErrorKind.TIMEOUT):
    return attempt(tier, level, "failed", kind=kind)


def first_tier() -> Answer:
    return answer(attempts=[attempt()])


def rules_answer(request_id: str = RULES_ID, kind: ErrorKind = ErrorKind.TIMEOUT) -> Answer:
    found = answer(
        request_id,
        "A limited answer to SECRET-PROMPT.",
        tier="rules",
        level=2,
        provider="rules",
        ref_code="REF-1A2B3C4D",
        attempts=[
            failure("primary", 0, kind),
            failure("minimal", 1),
            attempt("rules", 2),
        ],
    )
    return msgspec.structs.replace(
        found,
        intent="help",
        model_used="rules",
        original_error="primary: timeout: no token → minimal: timeout: no token",
    )


def secondary_answer(request_id: str = "bb00", kind: ErrorKind = ErrorKind.TIMEOUT) -> Answer:
    return answer(
        request_id,
        tier="secondary",
        level=1,
        attempts=[failure("primary", 0, kind), attempt("secondary", 1)],
    )


def no_answer(kind: ErrorKind = ErrorKind.TIMEOUT) -> Answer:
    return answer(
        error=ErrorInfo(kind=kind, message="nothing"), attempts=[failure("primary", 0, kind)]
    )


def settings(**channels: Any) -> Notifications:
    return msgspec.convert(channels, Notifications)


class World:
    """One user's places, clock and variables; processes are notifiers of it."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.path = folder / "state.db"
        self.clock = FakeClock()
        self.env = dict(env or {})
        self._opened: list[Database] = []

    def database(self) -> Database:
        database = Database(self.path)
        self._opened.append(database)
        return database

    def outbox(self) -> Outbox:
        return Outbox(self.database(), self.clock)

    def notifier(self, channels: Notifications, *, profile: str = "default") -> Notifier:
        keys = Keys(self.env, self.folder / "keys.yaml")
        return Notifier(channels, keys, self.outbox(), self.clock, profile)

    def waiting(self) -> int:
        return sum(entry.waiting for entry in self.outbox().entries())

    def close(self) -> None:
        for database in self._opened:
            database.close()


class Received(msgspec.Struct):
    """One request as a server got it."""

    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class HttpServer:
    """A real HTTP server that answers with one status after the other, and then with 200."""

    def __init__(
        self,
        *statuses: int,
        port: int = 0,
        body: bytes = b"ok",
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.received: list[Received] = []
        left = list(statuses)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                server.received.append(Received(self.headers, self.rfile.read(size)))
                self.send_response(left.pop(0) if left else 200)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}/hooks/T0SECRET/B0SECRET"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> HttpServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A server that takes connections and never says a word; gives its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.file))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)


class Mail(msgspec.Struct):
    """One mail as the server got it."""

    sender: str
    recipients: list[str]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.content, policy=policy.default)

    def part(self, kind: str) -> str:
        return self.message.get_body((kind,)).get_content()


class SmtpServer:
    """A real SMTP server; with `login` it lets nobody send who has not logged in."""

    def __init__(
        self,
        *,
        starttls: ssl.SSLContext | None = None,
        tls: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
        refused: str | None = None,
    ) -> None:
        self.mails: list[Mail] = []
        self.logins: list[str] = []
        server = self

        class Handler:
            async def handle_RCPT(self, _server, _session, envelope, address, options):  # noqa: N802
                if address == refused:
                    return "550 no such user"
                envelope.rcpt_tos.append(address)
                return "250 OK"

            async def handle_DATA(self, _server, session, envelope):  # noqa: N802
                assert session.ssl is not None or starttls is None
                mail = Mail(envelope.mail_from, list(envelope.rcpt_tos), envelope.content)
                server.mails.append(mail)
                return "250 OK"

        def check(_server, _session, _envelope, _mechanism, data) -> AuthResult:
            assert isinstance(data, LoginPassword)
            given = (data.login.decode(), data.password.decode())
            server.logins.append(given[0])
            return AuthResult(success=given == login, handled=False)

        self.port = free_port()
        self._controller = Controller(
            Handler(),
            hostname="127.0.0.1",
            port=self.port,
            ssl_context=tls,
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=check if login else None,
            auth_required=login is not None,
            auth_require_tls=starttls is not None,
        )

    def __enter__(self) -> SmtpServer:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took <= seconds, f"took {took:.2f} s"
