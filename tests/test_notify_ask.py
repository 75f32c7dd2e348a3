"""`ask` and notifications: people are told, and no answer waits for it."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from cli_support import REFUSED, cli, environment, profile, served, tieredllm
from wire_support import response


@pytest.fixture
def home(tmp_path):
    """Give the user's directories."""
    return tmp_path / "user"


def alerting(home) -> str:
    """Write a profile whose only model is unreachable, with a webhook."""
    return profile(
        home,
        "name: alerting\nnotifications: {webhook: {url_env: HOOK}}\ntiers:\n"
        f"  - {{name: a, provider: openai, model: m, base_url: '{REFUSED}', api_key_env: null}}\n"
        "  - {name: rules, provider: rules}\n",
    )


def test_a_fallback_is_told_once(home):
    """The run that caused it delivers the message; the same cause again is held back."""
    with served(response(200, "ok")) as hook:
        for _ in range(2):
            done = cli(home, "-p", alerting(home), "ask", "a secret?", HOOK=hook.url)
            assert done.returncode == 3

    assert len(hook.requests) == 1
    message = hook.requests[0].json
    assert message["severity"] == "high"
    assert "secret" not in json.dumps(message)


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_a_hanging_webhook_delays_no_answer(home, args):
    """The answer is out at once, and the process ends within the two seconds it may take."""

    async def hang(connection):
        await connection.gone()

    with (
        served(hang) as hook,
        subprocess.Popen(
            tieredllm("-p", alerting(home), "ask", "-q", "--allow-rules", *args, "hello"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment(home, HOOK=hook.url),
        ) as process,
    ):
        assert process.stdout.readline()
        answered_at = time.monotonic()
        process.wait(timeout=20)
        ended_after = time.monotonic() - answered_at

    assert process.returncode == 3
    assert 1.0 < ended_after < 4.0


def test_the_cache_tier_gives_the_last_good_answer(home):
    """In an outage the cache tier repeats the last complete answer to the same question."""
    from cli_support import answering

    def cached(url: str) -> str:
        return profile(
            home,
            "name: cached\ntiers:\n"
            f"  - {{name: a, provider: openai, model: m, base_url: '{url}', api_key_env: null,"
            " retries: 0}\n"
            "  - {name: last, provider: cache}\n  - {name: rules, provider: rules}\n",
        )

    with served(answering("Paris.")) as server:
        cli(home, "-p", cached(server.url + "/v1"), "ask", "Capital of France?")
    again = cli(home, "-p", cached(REFUSED), "ask", "--json", " Capital  of France?\n")
    other = cli(home, "-p", cached(REFUSED), "ask", "--json", "Capital of Spain?")
    answer = json.loads(again.stdout)

    assert (answer["text"], answer["tier"]) == ("Paris.", "last")
    assert answer["cached_at"] is not None
    assert json.loads(other.stdout)["tier"] == "rules"
