"""`ask` on the local tier tells what is odd about a model or its answer."""

from __future__ import annotations

import msgspec
from cli_support import cli
from local_support import write_gemma

LONG = "the quick brown fox jumps over the lazy dog " * 10 + "what jumps"
LOCAL = """
name: local
tiers:
  - name: local
    provider: llama_cpp
    model: {model}
    context_tokens: 1024
    prompt: full
    params: {{temperature: 0, max_tokens: 8}}
    first_token_timeout_s: 60
"""


def test_ask_says_that_a_template_is_not_used(tmp_path):
    """`ask` tells of a broken template in a line on stderr; the answer is there all the same."""
    model = write_gemma(tmp_path / "odd.gguf", template="{% broken")
    profile = tmp_path / "local.yaml"
    profile.write_text(LOCAL.format(model=model))
    done = cli(tmp_path, "-p", str(profile), "ask", "hello")

    assert done.stdout.strip()
    assert b"has a chat template that cannot be used" in done.stderr
    assert b"asked in Gemma's form" in done.stderr


def test_ask_says_that_an_answer_ran_in_circles(tmp_path):
    """A loop is cut, and both stderr and the JSON say so: random weights have nothing to say."""
    model = write_gemma(tmp_path / "tiny.gguf")
    profile = tmp_path / "local.yaml"
    profile.write_text(LOCAL.format(model=model).replace("max_tokens: 8", "max_tokens: 400"))
    done = cli(tmp_path, "-p", str(profile), "ask", "--json", "hello")
    told = msgspec.json.decode(done.stdout)

    assert (told["finish_reason"], told["truncated"]) == ("repetition", True)
    assert told["usage"]["completion_tokens"] < 400
    assert b"ran in circles" in done.stderr


def test_ask_keeps_contexts_with_the_log_only(tmp_path):
    """`ask` leaves a context behind, `ask -n` does not, and `log prune` takes it away."""
    home, model = tmp_path, write_gemma(tmp_path / "tiny.gguf")

    def files():
        return sorted((home / "cache" / "contexts").glob("*"))

    profile = home / "local.yaml"
    profile.write_text(LOCAL.format(model=model))

    cli(home, "-p", str(profile), "ask", "-n", LONG)
    without_log = files()
    done = cli(home, "-p", str(profile), "ask", LONG)
    with_log = files()
    again = cli(home, "-p", str(profile), "ask", "-c", "and what else")
    continued = files()
    cli(home, "log", "prune", "--older-than", "0", "--yes")

    assert {done.returncode, again.returncode} <= {0, 3}
    assert [len(found) for found in (without_log, with_log, continued)] == [0, 1, 1]
    assert continued != with_log
    assert files() == []
