"""What each channel gets, over real connections."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import sys
import threading

import msgspec
import pytest
from notify_support import (
    PASSWORD,
    SECRET,
    Authority,
    HttpServer,
    SmtpServer,
    World,
    at_most,
    failure,
    first_tier,
    free_port,
    rules_answer,
    secondary_answer,
    settings,
    silent_server,
)
from store_support import NOW

from tieredllm.notify.message import Details, Message, headline
from tieredllm.notify.slack import payload

WEBHOOK = {"url_env": "HOOK", "secret_env": "HOOK_SECRET"}
SLACK = {"webhook_env": "SLACK"}


def email(port: int, **more):
    values = {
        "host": "127.0.0.1",
        "port": port,
        "from": "Tiers <tiers@example.org>",
        "recipients": ["ops@example.org", "dev@example.org"],
    }
    return values | more


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, {"HOOK_SECRET": SECRET, "MAIL_PASSWORD": PASSWORD})
    yield world
    world.close()


def tell(world, channels, *answers, within_s=5.0):
    """Note answers and deliver what they give cause to; give what waits then, by its last error."""
    notifier = world.notifier(settings(**channels))
    for each in answers:
        notifier.note(each)
    asyncio.run(notifier.deliver(within_s))
    return [entry.last_error for entry in world.outbox().entries() if entry.waiting]


def message(**more) -> Message:
    values = {
        "id": "00ff",
        "event": "fallback",
        "severity": "high",
        "cause": "rules answered",
        "profile": "default",
        "count": 1,
        "first_at": NOW,
        "last_at": NOW,
        "details": Details(),
    }
    return Message(**(values | more))


def test_the_webhook_gets_a_signed_json_object(world):
    """Every field is there, the signature is HMAC-SHA256 of the raw body, and the time is in it."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        assert tell(world, {"webhook": WEBHOOK}, rules_answer()) == []
    (got,) = server.received
    body = got.json
    expected = hmac.new(SECRET.encode(), got.body, hashlib.sha256).hexdigest()

    assert got.headers["X-Tieredllm-Signature"] == f"sha256={expected}"
    assert got.headers["Content-Type"] == "application/json; charset=utf-8"
    assert got.headers["X-Tieredllm-Id"] == body.pop("id")
    assert [(step["tier"], step["outcome"], step["kind"]) for step in body.pop("attempts")] == [
        ("primary", "failed", "timeout"),
        ("minimal", "failed", "timeout"),
        ("rules", "ok", None),
    ]
    assert body == {
        "event": "fallback",
        "severity": "high",
        "cause": "rules answered",
        "profile": "default",
        "count": 1,
        "held_back": 0,
        "first_at": "2027-01-15T08:00:00Z",
        "last_at": "2027-01-15T08:00:00Z",
        "sent_at": "2027-01-15T08:00:00Z",
        "tier": "rules",
        "fallback_level": 2,
        "provider": "rules",
        "model_used": "rules",
        "request_id": "1a2b3c4d" * 4,
        "ref_code": "REF-1A2B3C4D",
        "intent": "help",
        "original_error": "primary: timeout: no token → minimal: timeout: no token",
        "ended": [],
    }


def test_without_a_secret_nothing_is_signed(world):
    """A profile that names no secret sends no signature."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        tell(world, {"webhook": {"url_env": "HOOK"}}, rules_answer())

    assert "X-Tieredllm-Signature" not in server.received[0].headers


def test_with_a_secret_that_is_not_set_nothing_is_sent(world):
    """A receiver that trusts signatures never gets an unsigned message."""
    del world.env["HOOK_SECRET"]
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        errors = tell(world, {"webhook": WEBHOOK}, rules_answer())

    assert server.received == []
    assert errors == ["HOOK_SECRET is not set, and nothing is sent unsigned"]


def test_slack_gets_blocks(world):
    """Header, tier, cause, reference and counts are laid out, with a text for notifications."""
    with HttpServer() as server:
        world.env["SLACK"] = server.url
        channels = {"slack": {**SLACK, "channel": "#ops"}}
        assert tell(world, channels, rules_answer(), rules_answer(), rules_answer()) == []
    body = server.received[0].json
    header, section, error, context = body["blocks"]
    fields = dict(field["text"].split("\n") for field in section["fields"])

    assert body["channel"] == "#ops"
    assert body["text"] == "🔴 rules answered (default, 3 requests)"
    assert header["type"] == "header"
    assert header["text"]["text"] == body["text"]
    assert fields == {
        "*Severity*": "high",
        "*Answered by*": "rules (level 2)",
        "*Cause*": "rules answered",
        "*Model*": "rules",
        "*Reference*": "REF-1A2B3C4D",
        "*Intent*": "help",
        "*Requests*": "3 since 2027-01-15 08:00:00 UTC (2 held back)",
        "*Profile*": "default",
        "*Last seen*": "2027-01-15 08:00:00 UTC",
    }
    assert error["text"]["text"] == "primary: timeout: no token → minimal: timeout: no token"
    assert context["type"] == "context"


def test_slack_mentions_nobody_and_stays_within_its_limits():
    """Text from outside is escaped or plain, and no block is longer than Slack takes."""
    details = Details(
        tier="<!channel>", model_used="<@U1>" * 1000, original_error="<!here> & " * 1000
    )
    value = payload(message(cause="a & <b>" * 100, details=details))
    header, section, error, _ = value["blocks"]

    assert len(header["text"]["text"]) <= 150
    assert len(section["fields"]) <= 10
    assert all(len(field["text"]) <= 2000 for field in section["fields"])
    assert not any("<" in field["text"] for field in section["fields"])
    assert "<" not in value["text"]
    assert error["text"]["type"] == "plain_text"
    assert len(error["text"]["text"]) <= 3000


def test_mail_goes_over_starttls_after_a_login(world, monkeypatch):
    """An encrypted, authenticated submission: plain text and HTML to every recipient."""
    authority = Authority(world.folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with SmtpServer(starttls=authority.context, login=("tiers", PASSWORD)) as server:
        channels = {"email": email(server.port, username="tiers", password_env="MAIL_PASSWORD")}
        assert tell(world, channels, rules_answer()) == []
    (mail,) = server.mails
    found = mail.message

    assert server.logins == ["tiers"]
    assert (mail.sender, mail.recipients) == (
        "tiers@example.org",
        ["ops@example.org", "dev@example.org"],
    )
    assert found["Subject"] == "[HIGH] tieredllm: rules answered (default)"
    assert found["To"] == "ops@example.org, dev@example.org"
    assert found["Auto-Submitted"] == "auto-generated"
    assert found["Message-ID"] == f"<{found['X-Tieredllm-Id']}@example.org>"
    assert found["Date"].datetime.timestamp() == NOW
    for kind in ("plain", "html"):
        text = mail.part(kind)
        assert "REF-1A2B3C4D" in text
        assert "primary: timeout: no token → minimal" in text
        assert "SECRET-PROMPT" not in text
    assert "<th" in mail.part("html")


def test_mail_goes_over_tls_from_the_start(world, monkeypatch):
    """Port 465 speaks TLS before SMTP."""
    authority = Authority(world.folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with SmtpServer(tls=authority.context) as server:
        errors = tell(world, {"email": email(server.port, security="tls")}, rules_answer())

    assert (errors, len(server.mails)) == ([], 1)


def test_mail_goes_unencrypted_only_when_the_profile_says_so(world):
    """A server without STARTTLS is refused, unless `security` is none."""
    with SmtpServer() as server:
        wary = tell(world, {"email": email(server.port)}, rules_answer())
        assert (server.mails, len(wary)) == ([], 1)
        assert "STARTTLS" in wary[0]
        world.clock.now += 60
        assert tell(world, {"email": email(server.port, security="none")}) == []

    assert len(server.mails) == 1


def test_a_certificate_of_an_unknown_authority_is_refused(world):
    """Neither mail nor webhook talks to a server whose certificate cannot be verified."""
    authority = Authority(world.folder)
    with (
        SmtpServer(starttls=authority.context) as server,
        HttpServer(context=authority.context) as web,
    ):
        world.env["HOOK"] = web.url
        channels = {"email": email(server.port), "webhook": WEBHOOK}
        errors = tell(world, channels, rules_answer())

    assert (server.mails, web.received, len(errors)) == ([], [], 2)
    assert all("certificate cannot be verified" in error for error in errors)


def test_https_works_with_an_authority_of_ones_own(world, monkeypatch):
    """`SSL_CERT_FILE` names further authorities, as elsewhere."""
    authority = Authority(world.folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with HttpServer(context=authority.context) as server:
        world.env["HOOK"] = server.url
        assert tell(world, {"webhook": WEBHOOK}, rules_answer()) == []

    assert len(server.received) == 1


def test_a_wrong_password_is_told_without_it(world, monkeypatch):
    """The error says that the login was rejected."""
    authority = Authority(world.folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with SmtpServer(starttls=authority.context, login=("tiers", "another")) as server:
        channels = {"email": email(server.port, username="tiers", password_env="MAIL_PASSWORD")}
        (error,) = tell(world, channels, rules_answer())

    assert error.startswith("the login was rejected: 535")
    assert PASSWORD not in error


def test_a_recipient_that_is_refused_does_not_keep_the_others_from_it(world):
    """What went to some is not sent again, and the refused one is named."""
    with SmtpServer(refused="dev@example.org") as server:
        notifier = world.notifier(settings(email=email(server.port, security="none")))
        (delivery,) = asyncio.run(notifier.send_test(["email"]))

    assert server.mails[0].recipients == ["ops@example.org"]
    assert (delivery.error, delivery.remark) == (None, "refused for dev@example.org")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HOOK", None, "HOOK is not set"),
        ("HOOK", "ftp://example.org/x", "what HOOK holds is no http:// or https:// address"),
        ("HOOK", "http://[::1", "what HOOK holds is no http:// or https:// address"),
        ("HOOK", "https://exa mple.org", "what HOOK holds is no http:// or https:// address"),
    ],
)
def test_an_unusable_address_is_told_by_its_variable(world, variable, value, words):
    """The variable is named, what it holds is not."""
    if value is not None:
        world.env[variable] = value

    assert tell(world, {"webhook": WEBHOOK}, rules_answer()) == [words]


def test_no_error_names_an_address_or_a_secret(world):
    """Refusals that repeat the address, redirects, dead and silent servers: no secret is kept."""
    page = b"Cannot POST /hooks/T0SECRET/B0SECRET with webhook-secret-0123456789"
    errors = []
    with (
        HttpServer(404, body=page) as refusing,
        HttpServer(302, headers={"Location": "http://127.0.0.1:1/T0SECRET"}) as moved,
        silent_server() as silent,
    ):
        for number, url in enumerate(
            (
                refusing.url,
                moved.url,
                f"http://127.0.0.1:{free_port()}/hooks/T0SECRET",
                f"http://user:T0SECRET@127.0.0.1:{silent}/hooks/T0SECRET",
            )
        ):
            world.env["HOOK"] = url
            channels = settings(webhook=WEBHOOK)
            notifier = world.notifier(channels, profile=f"p{number}")
            notifier.note(rules_answer())
            asyncio.run(notifier.deliver(0.6))
            errors += [e.last_error for e in world.outbox().entries(f"p{number}")]

    assert errors[0].startswith("HTTP 404: Cannot POST")
    assert errors[1] == "HTTP 302: it redirects, and redirects are never followed"
    assert errors[2] == "nothing listens there (connection refused)"
    assert errors[3].startswith("not accepted within 0.")
    everything = " ".join(errors) + world.path.read_bytes().decode("latin-1")
    assert "T0SECRET" not in everything
    assert "B0SECRET" not in everything


def test_a_proxy_that_needs_a_package_is_told(world, monkeypatch):
    """A SOCKS proxy in the environment is named, with what to install for it."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socksio", None)
    world.env["HOOK"] = "http://example.org/"
    (error,) = tell(world, {"webhook": {"url_env": "HOOK"}}, rules_answer())

    assert error == "the proxy in the environment is a SOCKS proxy: pip install 'httpx[socks]'"


def test_a_connection_that_ends_in_the_handshake_is_told(world):
    """A server that hangs up before TLS begins has closed the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        world.env["HOOK"] = f"https://127.0.0.1:{server.getsockname()[1]}/"

        def hang_up() -> None:
            server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        (error,) = tell(world, {"webhook": {"url_env": "HOOK"}}, rules_answer())
        thread.join()

    assert error == "the connection was closed without an answer"


def test_a_user_in_the_address_is_sent_as_basic_authorization(world):
    """Credentials in a webhook's URL reach the server as a header."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url.replace("http://", "http://ann:p%40ss@")
        assert tell(world, {"webhook": WEBHOOK}, rules_answer()) == []

    assert server.received[0].headers["Authorization"] == "Basic YW5uOnBAc3M="


def test_each_channel_has_its_own_minimum_severity(world):
    """By default: all goes to the webhook, medium and high to mail, high alone to Slack."""
    minimal = msgspec.structs.replace(rules_answer(), provider="llama_cpp", tier="minimal")
    with HttpServer() as web, HttpServer() as slack, SmtpServer() as smtp:
        world.env |= {"HOOK": web.url, "SLACK": slack.url}
        channels = {
            "slack": SLACK,
            "email": email(smtp.port, security="none"),
            "webhook": WEBHOOK,
        }
        counts = []
        for given in (secondary_answer(), minimal, rules_answer()):
            tell(world, channels, given)
            counts.append((len(web.received), len(smtp.mails), len(slack.received)))
        assert counts == [(1, 0, 0), (2, 1, 0), (3, 2, 1)]


def test_the_minimum_severity_can_be_set(world):
    """A profile may want less, or more."""
    with HttpServer() as web, HttpServer() as slack:
        world.env |= {"HOOK": web.url, "SLACK": slack.url}
        channels = {
            "slack": {**SLACK, "min_severity": "low"},
            "webhook": {**WEBHOOK, "min_severity": "medium"},
        }
        tell(world, channels, secondary_answer())

    assert (len(web.received), len(slack.received)) == (0, 1)


def test_a_recovery_is_told_where_the_alert_was(world):
    """It is as grave as what it ends, and says what that was."""
    with HttpServer() as web, HttpServer() as slack:
        world.env |= {"HOOK": web.url, "SLACK": slack.url}
        channels = {"slack": SLACK, "webhook": WEBHOOK}
        tell(world, channels, secondary_answer())
        world.clock.now += 60
        tell(world, channels, first_tier())
        tell(world, channels, first_tier())
    alert, recovery = (got.json for got in web.received)

    assert slack.received == []
    assert (alert["event"], recovery["event"]) == ("fallback", "recovery")
    assert (recovery["severity"], recovery["cause"], recovery["tier"]) == (
        "low",
        "recovered",
        "primary",
    )
    assert recovery["ended"] == [
        {
            "cause": "secondary answered",
            "severity": "low",
            "count": 1,
            "since": "2027-01-15T08:00:00Z",
        }
    ]


def test_a_recovery_is_worded_for_people():
    """The headline says who is back."""
    back = message(event="recovery", cause="recovered", details=Details(tier="primary"))

    assert headline(back) == "primary answers again (default)"
    assert payload(back)["text"] == "🟢 primary answers again (default)"


def test_an_error_that_holds_a_key_is_masked(world):
    """Not even an error that nobody has cleaned brings a key into a message or the outbox."""
    key = "sk-live-0123456789abcdefghijklmnop"
    leaky = msgspec.structs.replace(
        rules_answer(), original_error=f"primary: unexpected: ValueError: {key}"
    )
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        tell(world, {"webhook": WEBHOOK}, leaky)

    assert key not in server.received[0].body.decode()
    assert key.encode() not in world.path.read_bytes()


def test_a_slow_goodbye_does_not_make_a_mail_twice(world):
    """After the server has accepted a mail, its silence changes nothing."""
    import socketserver
    import threading
    import time

    class Slow(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 hello\r\n")
            for line in self.rfile:
                verb = line[:4].upper()
                if verb == b"QUIT":
                    time.sleep(1.5)
                    return
                self.wfile.write(b"354 go on\r\n" if verb == b"DATA" else b"250 OK\r\n")
                if verb == b"DATA":
                    while self.rfile.readline() != b".\r\n":
                        pass
                    self.wfile.write(b"250 OK\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            channels = {"email": email(server.server_address[1], security="none")}
            with at_most(0.9):
                assert tell(world, channels, rules_answer(), within_s=2.0) == []
        finally:
            server.shutdown()
            thread.join()


def test_what_nothing_answered_is_told_too(world):
    """A failed request has no tier, and the message says so."""
    from notify_support import no_answer

    with HttpServer() as server:
        world.env["HOOK"] = server.url
        tell(world, {"webhook": WEBHOOK}, no_answer())
    body = server.received[0].json

    assert (body["tier"], body["cause"]) == (None, "nothing answered")
    assert failure("primary", 0).error.kind == body["attempts"][0]["kind"]
