"""The command `notify`: try the channels, look into the outbox, send what waits."""

from __future__ import annotations

import io
import json

import pytest
from notify_support import (
    HttpServer,
    SmtpServer,
    World,
    at_most,
    free_port,
    rules_answer,
    settings,
    silent_server,
)

from tieredllm.cli.environment import Environment, use
from tieredllm.cli.notify import app
from tieredllm.errors import UsageError

PROFILE = """
name: told
tiers:
  - {{name: rules, provider: rules}}
notifications:
{channels}
"""


class Notify:
    """Runs of the command in one user's places."""

    def __init__(self, folder, channels: str) -> None:
        self.folder = folder
        self.env = {"TIEREDLLM_HOME": str(folder)}
        self.profile = folder / "told.yaml"
        self.profile.write_text(PROFILE.format(channels=channels))

    def __call__(self, *args: str, quiet: bool = False) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        environment = Environment(
            env=self.env,
            stdin=io.StringIO(),
            stdout=out,
            stderr=err,
            profile_name=str(self.profile),
            quiet=quiet,
        )
        use(environment)
        try:
            code = app(args=list(args), prog_name="notify", standalone_mode=False)
        except UsageError as exc:
            return 2, out.getvalue(), str(exc)
        return code or 0, out.getvalue(), err.getvalue()


@pytest.fixture
def notify(tmp_path):
    return lambda channels="  {}": Notify(tmp_path, channels)


@pytest.fixture
def world(tmp_path):
    (tmp_path / "state").mkdir()
    world = World(tmp_path)
    world.path = tmp_path / "state" / "state.db"
    yield world
    world.close()


ALL = """
  slack: {{webhook_env: SLACK}}
  email: {{host: 127.0.0.1, port: {port}, from: a@example.org, recipients: [b@example.org],
          security: none}}
  webhook: {{url_env: HOOK}}
"""


def test_a_test_message_goes_to_every_channel(notify):
    """A line per channel says that it was sent."""
    with HttpServer() as web, HttpServer() as slack, SmtpServer() as smtp:
        run = notify(ALL.format(port=smtp.port))
        run.env |= {"HOOK": web.url, "SLACK": slack.url}
        result = run("test")

    assert result == (0, "slack\tsent\nemail\tsent\nwebhook\tsent\n", "")
    assert web.received[0].json["event"] == "test"
    assert "Test message of profile told" in slack.received[0].json["text"]
    assert smtp.mails[0].message["Subject"] == "[LOW] tieredllm: Test message of profile told"


def test_one_channel_can_be_chosen(notify):
    """The others get nothing."""
    with HttpServer() as web:
        run = notify(ALL.format(port=free_port()))
        run.env |= {"HOOK": web.url}

        assert run("test", "webhook") == (0, "webhook\tsent\n", "")


def test_a_channel_that_fails_is_told_with_its_reason(notify):
    """Exit code 1, the others are sent all the same, and no address is shown."""
    with HttpServer(404, body=b"no_service") as slack, HttpServer() as web:
        run = notify(ALL.format(port=free_port()))
        run.env |= {"HOOK": web.url, "SLACK": slack.url}
        code, out, err = run("test")

    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "slack\tfailed: HTTP 404: no_service",
        "email\tfailed: nothing listens there (connection refused)",
        "webhook\tsent",
    ]


def test_what_came_of_a_test_is_told_as_json(notify):
    """Each channel, and why its message has not arrived."""
    with HttpServer(404, body=b"no_service") as slack, HttpServer() as web:
        run = notify(ALL.format(port=free_port()))
        run.env |= {"HOOK": web.url, "SLACK": slack.url}
        code, out, _ = run("test", "--json")

    assert code == 1
    assert [(it["channel"], it["error"]) for it in json.loads(out)] == [
        ("slack", "HTTP 404: no_service"),
        ("email", "nothing listens there (connection refused)"),
        ("webhook", None),
    ]


def test_a_variable_that_is_not_set_is_named(notify):
    """What to do is in the line."""
    run = notify("  slack: {}")

    assert run("test") == (1, "slack\tfailed: SLACK_WEBHOOK_URL is not set\n", "")


@pytest.mark.parametrize("command", ["test", "flush"])
def test_without_channels_there_is_nothing_to_try(notify, command):
    """Exit code 2, and what to add."""
    code, out, message = notify()(command)

    assert (code, out) == (2, "")
    assert "has no notification channel: add slack, email or webhook" in message


def test_an_unknown_channel_is_a_usage_error(notify):
    """Exit code 2, and which there are."""
    code, _, message = notify("  slack: {}")("test", "pager")

    assert (code, message) == (2, "the profile has no channel 'pager': it has slack")


def test_an_empty_outbox_is_a_remark(notify, tmp_path):
    """Nothing on stdout, and no file is made."""
    run = notify()

    assert run("outbox") == (0, "", "nothing waits\n")
    assert run("outbox", "--json") == (0, "[]\n", "")
    assert not (tmp_path / "state").exists()


def waiting(world, url: str) -> None:
    """Let a real run leave a message in the outbox."""
    import asyncio
    import time

    world.clock.now = time.time()
    world.env["HOOK"] = url
    notifier = world.notifier(settings(webhook={"url_env": "HOOK"}), profile="told")
    notifier.note(rules_answer())
    notifier.note(rules_answer())
    asyncio.run(notifier.deliver())


def test_the_outbox_lists_what_waits(notify, world):
    """Channel, severity, cause, tries, next try and last error, for people and as JSON."""
    waiting(world, f"http://127.0.0.1:{free_port()}/T0SECRET")
    run = notify()
    code, out, _ = run("outbox")
    (line,) = out.splitlines()
    (entry,) = json.loads(run("outbox", "--json")[1])

    assert code == 0
    assert line.split("\t")[:6] == ["webhook", "high", "rules answered", "told", "2", "1"]
    assert "T0SECRET" not in out
    assert entry.keys() == {
        "id", "channel", "severity", "cause", "profile", "count", "first_at", "last_at", "tries",
        "next_try_at", "last_error",
    }  # fmt: skip
    assert (entry["count"], entry["last_error"]) == (
        2,
        "nothing listens there (connection refused)",
    )


def test_flush_sends_what_waits_at_once(notify, world):
    """The wait before another try is skipped; then nothing is left."""
    port = free_port()
    waiting(world, f"http://127.0.0.1:{port}/")
    run = notify("  webhook: {url_env: HOOK}")
    with HttpServer(port=port) as server:
        run.env["HOOK"] = server.url
        assert run("flush") == (0, "webhook\tsent\trules answered\n", "")
        assert run("flush") == (0, "", "nothing is to be sent\n")

    assert server.received[0].json["count"] == 2


def test_flush_that_fails_says_so(notify, world):
    """Exit code 1, and the message stays."""
    waiting(world, f"http://127.0.0.1:{free_port()}/")
    run = notify("  webhook: {url_env: HOOK}")
    run.env["HOOK"] = f"http://127.0.0.1:{free_port()}/"
    code, out, _ = run("flush")

    assert code == 1
    assert out == "webhook\tfailed: nothing listens there (connection refused)\trules answered\n"
    assert len(json.loads(run("outbox", "--json")[1])) == 1


def test_flush_in_an_empty_place_makes_nothing(notify, tmp_path):
    """It takes no time and leaves no file."""
    run = notify("  webhook: {url_env: HOOK}")
    with at_most(1.0):
        assert run("flush", quiet=True) == (0, "", "")
    assert not (tmp_path / "state").exists()


def test_a_mistake_in_the_profile_is_reported_as_elsewhere(notify):
    """A wrong channel setting is a profile error with its place."""
    code, _, message = notify("  slack: {chanel: '#ops'}")("test")

    assert code == 2
    assert "told.yaml:6" in message


def test_every_command_has_help():
    """Each command and option says what it does."""
    import typer

    group = typer.main.get_command(app)

    assert set(group.commands) == {"test", "outbox", "flush"}
    for command in group.commands.values():
        assert command.help
        assert all(getattr(parameter, "help", None) for parameter in command.params)


def test_a_hanging_channel_ends_the_test_in_time(notify, monkeypatch):
    """The bound of a test message is seconds, not minutes."""
    from tieredllm.notify.notifier import Notifier

    monkeypatch.setattr(Notifier.send_test, "__defaults__", (0.5,))
    with silent_server() as port:
        run = notify("  webhook: {url_env: HOOK}")
        run.env["HOOK"] = f"http://127.0.0.1:{port}/"
        with at_most(1.2):
            code, out, _ = run("test")

    assert (code, out) == (1, "webhook\tfailed: not accepted within 0.5 s\n")
