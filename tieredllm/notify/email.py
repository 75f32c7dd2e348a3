"""Send messages as e-mail over SMTP, as plain text and as HTML.

Submission is RFC 6409 with STARTTLS (RFC 3207) on port 587, or TLS from the start on 465 (RFC
8314); logging in is RFC 4954. `Auto-Submitted` (RFC 3834) keeps vacation notices away, and a
`Message-ID` that stays the same on every try lets mail systems drop a second copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import socket
from typing import TYPE_CHECKING

from tieredllm.aio import in_thread
from tieredllm.clock import Clock
from tieredllm.keys import Keys
from tieredllm.notify.channels import SendError
from tieredllm.notify.http_post import network_error, trusting
from tieredllm.notify.message import Message, error_of, facts, headline
from tieredllm.profile.schema import Email

if TYPE_CHECKING:
    from email.message import EmailMessage
    from smtplib import SMTP

__all__ = ["EmailChannel", "email_of"]

GOODBYE_S = 0.2
"""How long the answer to QUIT is waited for: the message has been accepted by then."""


class EmailChannel:
    """The people who get e-mail.

    Args:
        settings: how it is sent, and to whom.
        keys: where the password is looked up.
        clock: the time for the `Date` header.
    """

    def __init__(self, settings: Email, keys: Keys, clock: Clock) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock

    async def send(self, message: Message, *, within_s: float) -> str | None:
        """Send one message; see `channels.Channel`. Says who was refused when others were not.

        The standard library's SMTP client blocks, so it does on a daemon thread.
        """
        submission = _Submission(self._settings, self._password(), within_s)
        try:
            return await in_thread(
                lambda: submission.send(message, at=self._clock.wall()), name="tieredllm-notify"
            )
        except asyncio.CancelledError:
            submission.cut()
            raise

    def _password(self) -> str | None:
        settings = self._settings
        if settings.username is None:
            return None
        if settings.password_env is None:
            raise SendError("the profile's `username` needs a `password_env`")
        password = self._keys.get(settings.password_env)
        if password is None:
            raise SendError(f"{settings.password_env} is not set")
        if not (settings.username + password).isascii():
            # RFC 4954 leaves the encoding to the mechanism, and smtplib knows ASCII only.
            raise SendError("a user name or password that is not ASCII cannot be sent")
        return password


class _Submission:
    """One message on its way to a server, which another thread can break off."""

    def __init__(self, settings: Email, password: str | None, within_s: float) -> None:
        self._settings = settings
        self._password = password
        self._within_s = within_s
        self._smtp: SMTP | None = None
        self._is_cut = False

    def send(self, message: Message, *, at: float) -> str | None:
        """Hand the message over; blocks. Says who was refused when others were not."""
        import smtplib

        settings, password = self._settings, self._password
        mail = email_of(message, settings, at=at)
        try:
            smtp = self._connect()
            if settings.security == "starttls":
                smtp.starttls(context=trusting())
            if settings.username is not None and password is not None:
                smtp.login(settings.username, password)
            refused = smtp.send_message(mail, to_addrs=list(settings.recipients))
            _say_goodbye(smtp)
        except (smtplib.SMTPException, OSError, ValueError) as exc:
            raise _failure(exc, password) from None
        finally:
            if self._smtp is not None:
                self._smtp.close()
        return f"refused for {', '.join(sorted(refused))}" if refused else None

    def cut(self) -> None:
        """Break the connection off, from any thread; who waits for it gets an error."""
        self._is_cut = True
        found = None if self._smtp is None else self._smtp.sock
        if found is not None:
            with contextlib.suppress(OSError):
                # Not its own method: that of an encrypted one takes its cipher away from the
                # thread that is reading.
                socket.socket.shutdown(found, socket.SHUT_RDWR)

    def _connect(self) -> SMTP:
        """Connect, encrypted at once if the profile says so."""
        import smtplib

        host, port = self._settings.host, self._settings.port
        # Without a name of our own, smtplib looks one up, which may take longer than all the rest.
        name, timeout_s = "localhost", self._within_s
        if self._settings.security == "tls":
            smtp: SMTP = smtplib.SMTP_SSL(
                host, port, local_hostname=name, timeout=timeout_s, context=trusting()
            )
        else:
            smtp = smtplib.SMTP(host, port, local_hostname=name, timeout=timeout_s)
        self._smtp = smtp
        if self._is_cut:  # while it was connecting
            raise ConnectionAbortedError
        smtp.local_hostname = _own_name(smtp)
        return smtp


def email_of(message: Message, settings: Email, *, at: float) -> EmailMessage:
    """Make the e-mail of one message.

    Args:
        message: what to say.
        settings: from whom and to whom.
        at: the time, seconds since the epoch.
    """
    from email.message import EmailMessage
    from email.utils import formatdate, parseaddr

    title = headline(message)
    mail = EmailMessage()
    mail["Subject"] = f"[{message.severity.upper()}] tieredllm: {title}"
    mail["From"] = settings.from_
    mail["To"] = ", ".join(settings.recipients)
    mail["Date"] = formatdate(at)
    domain = parseaddr(settings.from_)[1].rpartition("@")[2] or "localhost"
    mail["Message-ID"] = f"<{message.id}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Tieredllm-Id"] = message.id
    rows = facts(message)
    error = error_of(message)
    width = max(len(label) for label, _ in rows) + 2
    lines = [title, "", *(f"{label + ':':<{width}}{value}" for label, value in rows)]
    if error:
        lines += ["", "What each tier said:", error]
    # Not every server takes 8-bit text.
    mail.set_content("\n".join(lines) + "\n", cte="quoted-printable")
    mail.add_alternative(_page(title, rows, error), subtype="html", cte="quoted-printable")
    return mail


def _page(title: str, rows: list[tuple[str, str]], error: str | None) -> str:
    cells = "\n".join(
        f'<tr><th align="left">{html.escape(label)}</th><td>{html.escape(value)}</td></tr>'
        for label, value in rows
    )
    said = f"<p>What each tier said:</p>\n<pre>{html.escape(error)}</pre>\n" if error else ""
    return (
        "<!DOCTYPE html>\n<html><body>\n"
        f"<h2>{html.escape(title)}</h2>\n<table cellpadding='4'>\n{cells}\n</table>\n{said}"
        "</body></html>\n"
    )


def _own_name(smtp: SMTP) -> str:
    """Return the name to greet with: an address literal (RFC 5321, section 4.1.3)."""
    if smtp.sock is None:
        return "localhost"
    address = str(smtp.sock.getsockname()[0])
    return f"[IPv6:{address.partition('%')[0]}]" if ":" in address else f"[{address}]"


def _say_goodbye(smtp: SMTP) -> None:
    """Quit; what was accepted stays accepted, however that goes."""
    import smtplib

    with contextlib.suppress(smtplib.SMTPException, OSError):
        if smtp.sock is not None:
            smtp.sock.settimeout(GOODBYE_S)
        smtp.quit()


def _failure(exc: Exception, password: str | None) -> SendError:
    """Translate an error of the SMTP client."""
    import smtplib

    from tieredllm.redaction import presentable

    def said(code: int, text: bytes | str) -> str:
        words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return presentable(f"{code} {words}", (password,))[:150]

    if isinstance(exc, smtplib.SMTPServerDisconnected):
        words = "the server closed the connection"
    elif isinstance(exc, smtplib.SMTPRecipientsRefused):
        code, text = next(iter(exc.recipients.values()))
        words = f"every recipient was refused: {said(code, text)}"
    elif isinstance(exc, smtplib.SMTPResponseException):
        login = isinstance(exc, smtplib.SMTPAuthenticationError)
        refused = "the login was rejected" if login else "the server refused"
        words = f"{refused}: {said(exc.smtp_code, exc.smtp_error)}"
    elif isinstance(exc, smtplib.SMTPException):
        words = presentable(f"the server cannot do it: {exc}", (password,))
    else:
        return network_error(exc)
    return SendError(words)
