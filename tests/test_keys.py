"""Keys come from the environment or from a file that only its owner can read."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from profile_support import command, write

from tieredllm.errors import TieredLLMError, UsageError
from tieredllm.keys import Keys, clean_key

posix = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config" / "keys.yaml"


def test_the_environment_wins_over_the_file(file):
    """A variable that is set hides the stored key; a blank one does not."""
    write(file, "A: stored-a\nB: stored-b\nC: stored-c\n")
    keys = Keys({"A": "from-env", "B": "  \n", "D": ""}, file)

    assert [keys.get(name) for name in "ABCD"] == ["from-env", "stored-b", "stored-c", None]
    assert [keys.origin(name) for name in "ABCD"] == ["environment", "keys file", "keys file", None]
    assert keys.names() == ("A", "B", "C")


def test_white_space_around_a_key_does_not_count(file):
    """A newline copied along would break the request's header."""
    write(file, 'B: "  stored \\n"\nC: "   "\n')
    keys = Keys({"A": "  key\n"}, file)

    assert (keys.get("A"), keys.get("B"), keys.get("C")) == ("key", "stored", None)
    assert keys.names() == ("B",)


@pytest.mark.parametrize(
    "value", ["0123", "1e5", "true", "0x1F", "12:30", "2024-01-01", "1_000", "no"]
)
def test_a_key_is_what_the_file_says(file, value):
    """A key that YAML would read as a number, truth value or date stays the text it is."""
    write(file, f"K: {value}\n")

    assert Keys({}, file).get("K") == value


def test_bytes_that_are_no_text_are_a_wrong_key_and_nothing_worse(file):
    """A variable that holds no UTF-8 gives a key that can be hashed, and refused as no key."""
    key = Keys({"K": "sk-\udcff"}, file).get("K")

    assert key is not None
    assert key.encode().decode().startswith("sk-\ufffd")


def test_the_file_is_read_only_when_it_is_needed(file, monkeypatch):
    """A key from the environment, or no file at all, costs nothing."""
    import tieredllm.profile.yaml_reader as yaml_reader

    read = []
    genuine = yaml_reader.read_yaml
    monkeypatch.setattr(
        yaml_reader, "read_yaml", lambda path, **more: read.append(path) or genuine(path, **more)
    )

    assert Keys({"A": "x"}, file).get("B") is None
    write(file, "B: y")
    keys = Keys({"A": "x"}, file)
    assert keys.get("A") == "x"
    assert read == []
    assert (keys.get("B"), keys.get("C"), keys.get("B")) == ("y", None, "y")
    assert read == [file]


@posix
def test_the_file_is_its_owners_alone(file):
    """The file has mode 0600 and the directory made for it 0700, whatever the umask."""
    before = os.umask(0)
    try:
        Keys({}, file).set("A", "x")
    finally:
        os.umask(before)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not Keys({}, file).exposed


@posix
def test_a_file_others_can_read_is_noticed_and_closed_by_the_next_write(file):
    """A mode of 0644 shows as exposed until something is kept."""
    write(file, "A: x")
    file.chmod(0o644)
    keys = Keys({}, file)

    assert keys.exposed
    keys.set("B", "y")
    assert not keys.exposed


def test_keys_are_set_replaced_and_removed(file):
    """What is kept is there for the next process, in a file that other YAML readers read too."""
    keys = Keys({}, file)
    keys.set("B", " sk-1 \n")
    keys.set("A", "sk-2")
    keys.set("B", "sk-3")

    assert (keys.get("B"), keys.names()) == ("sk-3", ("A", "B"))
    assert yaml.safe_load(file.read_text()) == {"A": "sk-2", "B": "sk-3"}
    keys.remove("B")
    assert Keys({}, file).names() == ("A",)
    assert [path.name for path in file.parent.iterdir()] == ["keys.yaml"]


@given(value=st.text(st.characters(categories=["L", "N", "P", "S"]) | st.just(" "), min_size=1))
def test_any_printable_key_comes_back(tmp_path_factory, value):
    """Quotes, backslashes, colons and letters of any script survive within it."""
    file = tmp_path_factory.mktemp("k") / "keys.yaml"
    value = f"k{value}k"
    Keys({}, file).set("K", value)

    assert Keys({}, file).get("K") == value


@pytest.mark.parametrize(
    ("copied", "key"),
    [
        ('"sk-abc"', "sk-abc"),
        (" 'sk-abc' ", "sk-abc"),
        ("Bearer sk-abc", "sk-abc"),
        ('"bearer  sk-abc"\n', "sk-abc"),
        ("sk-\"abc'", "sk-\"abc'"),
        ('"', '"'),
        ("''", ""),
    ],
)
def test_what_is_copied_along_is_no_part_of_a_key(file, copied, key):
    """Quotes of an env file and a header's `Bearer` go, wherever the key is from."""
    write(file, yaml.safe_dump({"STORED": copied}))
    keys = Keys({"SET": copied}, file)

    assert clean_key(copied) == key
    assert (keys.get("SET") or "", keys.get("STORED") or "") == (key, key)


_WRITER = """
import sys, time
from pathlib import Path
from tieredllm.keys import Keys

file, writer, start = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
for turn in range(50):
    time.sleep(max(0.0, start + turn * 0.02 - time.time()))
    Keys({}, file).set(f"K{turn}_{writer}", "x")
"""


@pytest.mark.parametrize("writers", [2, 8])
def test_keys_that_are_set_at_the_same_time_are_all_kept(file, writers):
    """Fifty times all processes set a key of their own at the same moment."""
    start = time.time() + 1.5
    processes = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(file), str(number), str(start)])
        for number in range(writers)
    ]
    codes = [process.wait(60) for process in processes]

    assert codes == [0] * writers
    assert len(Keys({}, file).names()) == 50 * writers
    assert [path.name for path in file.parent.iterdir()] == ["keys.yaml"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from tieredllm.keys import Keys

os.fsync = lambda _file: os.kill(os.getpid(), signal.SIGKILL)
Keys({}, Path(sys.argv[1])).set("B", "other-secret")
"""


@posix
@pytest.mark.parametrize("then", [("keys", "list"), ("keys", "rm", "A")])
def test_a_killed_change_leaves_no_copy_of_the_keys(tmp_path, then):
    """The next look at the keys removes what the killed process had written; nothing is locked."""
    file = write(tmp_path / "config/keys.yaml", "A: secret\n")
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(file)], check=False)
    after_kill = file.read_text()
    result = command(*then, home=tmp_path)

    assert (killed.returncode, result.code) == (-signal.SIGKILL, 0)
    assert after_kill == "A: secret\n"
    assert [path.name for path in file.parent.iterdir()] == ["keys.yaml"]


@posix
def test_a_pipe_as_the_file_is_refused(file):
    """Nobody writes to it, and nobody waits."""
    file.parent.mkdir()
    os.mkfifo(file)
    keys = Keys({}, file)

    assert keys.get("A") is None
    assert "a pipe or a device, not a file" in str(keys.mistakes[0])


@pytest.mark.parametrize(
    "text",
    [
        "A: !sk-secret x",
        "A: *sk-secret",
        "A: {sk-secret-0123456789ab: 1, sk-secret-0123456789ab: 2}",
    ],
)
def test_no_mistake_repeats_a_key(file, text):
    """What YAML takes for something else than text may be a key all the same."""
    write(file, text)

    assert Keys({}, file).mistakes
    assert "secret" not in "".join(map(str, Keys({}, file).mistakes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("A", " \n", "nothing was given for A"),
        ("A", "two\nlines", "the key for A must be one line without control characters"),
        ("A", "a\x00b", "the key for A must be one line without control characters"),
        ("1A", "x", "a key's name has letters, digits and `_`, such as OPENAI_API_KEY"),
        ("sk-secret", "x", "a key's name has letters, digits and `_`, such as OPENAI_API_KEY"),
    ],
)
def test_what_cannot_be_kept_is_refused(file, name, value, message):
    """Nothing is written, and the value is in no message."""
    with pytest.raises(UsageError) as caught:
        Keys({}, file).set(name, value)

    assert str(caught.value) == message
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("A: [x", "1:4: the list opened with `[` lacks a `,` or its `]`"),
        ("- A", "1:1: the keys file has lines of `NAME: value`"),
        ("A: [x]", "1:1: a key is one line: `NAME: value`"),
        ("A-B: secret", "1:1: a key's name has letters, digits and `_`"),
        ("A: secret\nA: secret", "2:1: `A` is given twice, first in line 1: keep one"),
    ],
)
def test_a_broken_file_is_ignored_in_reading_and_refused_in_writing(file, text, mistake):
    """Reading goes on without it and can tell why; writing never destroys what is there."""
    write(file, text)
    keys = Keys({}, file)

    assert keys.get("B") is None
    assert [str(each) for each in keys.mistakes] == [f"{file}:{mistake}"]
    with pytest.raises(UsageError) as caught:
        keys.set("B", "x")
    assert str(caught.value) == f"{file}:{mistake} (put this right first, nothing was changed)"
    with pytest.raises(UsageError):
        keys.remove("A")
    assert file.read_text() == text


def test_what_is_right_in_a_broken_file_is_used(file):
    """One bad line does not hide the others."""
    write(file, "A: x\nB: [y]\n")

    assert Keys({}, file).get("A") == "x"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_holds_no_keys(file, text):
    """A file without any key is fine, to read and to write."""
    write(file, text)
    keys = Keys({}, file)

    assert (keys.names(), keys.mistakes) == ((), ())
    keys.set("A", "x")
    assert keys.names() == ("A",)


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    """A file where the directory should be gives a message, and no traceback's worth of noise."""
    (tmp_path / "config").write_text("in the way")

    with pytest.raises(TieredLLMError) as caught:
        Keys({}, tmp_path / "config" / "keys.yaml").set("A", "x")
    assert str(caught.value).startswith(f"cannot write {tmp_path}/config/keys.yaml: ")


def test_a_failed_write_leaves_the_file_as_it_was(file, monkeypatch):
    """When the new file cannot be put in place the old one stays, and nothing else is left."""
    from pathlib import Path

    keys = Keys({}, file)
    keys.set("A", "x")
    before = file.read_text()

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(TieredLLMError, match="No space left on device"):
        keys.set("A", "y")

    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == ["keys.yaml"]
    assert Keys({}, file).get("A") == "x"


@posix
def test_a_link_stays_a_link(tmp_path, file):
    """Whoever keeps the file elsewhere finds it there."""
    elsewhere = write(tmp_path / "dotfiles/keys.yaml", "A: x\n")
    file.parent.mkdir()
    file.symlink_to(elsewhere)
    Keys({}, file).set("B", "y")

    assert file.is_symlink()
    assert yaml.safe_load(elsewhere.read_text()) == {"A": "x", "B": "y"}


def test_the_command_keeps_a_key_from_standard_input(tmp_path):
    """`keys set` reads a pipe; nothing of the key is printed."""
    result = command("keys", "set", "OPENAI_API_KEY", home=tmp_path, stdin="sk-0123456789ab\n")
    file = tmp_path / "config/keys.yaml"

    assert (result.code, result.stdout) == (0, "")
    assert result.stderr == f"kept OPENAI_API_KEY in {file}\n"
    assert Keys({}, file).get("OPENAI_API_KEY") == "sk-0123456789ab"


def test_a_key_that_nothing_reads_is_doubted(tmp_path):
    """It is kept all the same, for another profile; what MCP servers get counts as asked for."""
    write(
        tmp_path / "config/profiles/mcp.yaml",
        """
        tiers: [{name: r, provider: rules}]
        tools:
          mcp:
            x: {command: [x], pass_env: [MINE]}
            y: {url: 'https://y', headers_env: {A: Y}}
        """,
    )
    doubted = command("keys", "set", "MINE", home=tmp_path, stdin="x")
    asked_for = [
        command("-p", "mcp", "keys", "set", name, home=tmp_path, stdin="x")
        for name in ("MINE", "Y")
    ]

    assert doubted.stderr.splitlines()[1:] == [
        "nothing in the profile in use asks for MINE: `tieredllm keys list` shows what"
    ]
    assert (doubted.code, Keys({}, tmp_path / "config/keys.yaml").get("MINE")) == (0, "x")
    assert [len(result.stderr.splitlines()) for result in asked_for] == [1, 1]


def test_a_vendor_stands_for_its_variable(tmp_path):
    """`keys set openai` keeps what the openai tiers look for, and `keys rm` removes it."""
    kept = command("keys", "set", "OpenAI", home=tmp_path, stdin="k")
    gone = command("keys", "rm", "openai", home=tmp_path)
    file = tmp_path / "config/keys.yaml"

    assert kept.stderr == f"kept OPENAI_API_KEY in {file}\n"
    assert gone.stderr == f"removed OPENAI_API_KEY from {file}\n"


def test_the_command_says_when_the_environment_hides_a_key(tmp_path):
    """What is kept while a variable is set would not be used."""
    env = {"OPENAI_API_KEY": "x"}
    kept = command("keys", "set", "OPENAI_API_KEY", home=tmp_path, stdin="k", env=env)
    gone = command("keys", "rm", "OPENAI_API_KEY", home=tmp_path, env=env)

    assert kept.stderr.endswith("OPENAI_API_KEY is set in the environment too, and that wins\n")
    assert gone.stderr.endswith("OPENAI_API_KEY is still set in the environment\n")


def test_the_command_lists_keys_without_showing_them(tmp_path):
    """The end of a long key is shown, nothing of a short one; wanted keys that lack are listed."""
    for name, value in (("GEMINI_API_KEY", "short-key-1"), ("MINE", "a-long-key-12")):
        command("keys", "set", name, home=tmp_path, stdin=value)
    env = {"OPENAI_API_KEY": "sk-environment"}
    lines = command("keys", "list", home=tmp_path, env=env)
    values = command("keys", "list", "--json", home=tmp_path, env=env)

    assert (lines.code, lines.stderr) == (0, "")
    assert lines.stdout == (
        "ANTHROPIC_API_KEY\tnot set\t\n"
        "GEMINI_API_KEY\tkeys file\t****\n"
        "MINE\tkeys file\t****y-12\n"
        "OPENAI_API_KEY\tenvironment\t****ment\n"
    )
    assert json.loads(values.stdout)[0] == {
        "name": "ANTHROPIC_API_KEY",
        "origin": None,
        "masked": None,
    }


def test_the_list_tells_what_is_wrong_with_the_file(tmp_path):
    """A broken file and one that others can read are pointed at."""
    file = write(tmp_path / "config/keys.yaml", "A: [x]\n")
    file.chmod(0o644)
    told = command("keys", "list", home=tmp_path).stderr.splitlines()

    assert told[0] == f"{file}:1:1: a key is one line: `NAME: value`"
    assert os.name != "posix" or told[1] == f"others can read {file}: `chmod 600` it"


def test_a_broken_profile_does_not_stop_the_list(tmp_path):
    """The kept keys are listed whatever the profile is like, and it is said that it is broken."""
    write(tmp_path / "config/profiles/default.yaml", "tiers: [")
    command("keys", "set", "MINE", home=tmp_path, stdin="x")

    done = command("keys", "list", home=tmp_path)

    assert done.stdout == "MINE\tkeys file\t****\n"
    assert "`tieredllm profile validate` tells them" in done.stderr


def test_the_list_says_what_is_wrong_with_the_profile_that_is_named(tmp_path):
    """One that does not exist is said to be missing; the check of a broken one is that one's."""
    broken = write(tmp_path / "my own.yaml", "tiers: [")

    missing = command("-p", "nope", "keys", "list", home=tmp_path)
    wrong = command("-p", str(broken), "keys", "list", home=tmp_path)

    assert missing.stderr.startswith("there is no profile `nope`")
    assert "mistakes" not in missing.stderr
    assert f"`tieredllm profile validate '{broken}'` tells them" in wrong.stderr


@pytest.mark.parametrize(
    ("args", "stdin", "message"),
    [
        (("set", "OPENAI_API_KEY"), "", "nothing was given for OPENAI_API_KEY"),
        (("set", "A B"), "x", "a key's name has letters, digits and `_`, such as OPENAI_API_KEY"),
        (
            ("set", "sk-proj-0123456789"),
            "x",
            "give the key's name, such as OPENAI_API_KEY; the key is asked for then",
        ),
        (("rm", "A"), "", "{file} has no key A"),
        (("rm", "sk-1"), "", "a key's name has letters, digits and `_`, such as OPENAI_API_KEY"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(tmp_path, args, stdin, message):
    """The message says what to do and repeats nothing that may be a key."""
    result = command("keys", *args, home=tmp_path, stdin=stdin)
    told = message.replace("{file}", str(tmp_path / "config/keys.yaml"))

    assert (result.code, result.stdout, result.stderr) == (2, "", f"tieredllm: {told}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_at_a_terminal_the_key_is_not_shown(tmp_path):
    """What is typed at the prompt does not appear on the screen, and is kept."""
    import pexpect

    env = {**os.environ, "TIEREDLLM_HOME": str(tmp_path)}
    child = pexpect.spawn(
        sys.executable, ["-m", "tieredllm", "keys", "set", "K"], env=env, timeout=20
    )
    child.expect("not shown")
    child.waitnoecho()
    child.sendline("sk-typed-unseen")
    child.expect(pexpect.EOF)
    shown = child.before.decode()
    child.close()

    assert child.exitstatus == 0
    assert "sk-typed" not in shown
    assert Keys({}, tmp_path / "config/keys.yaml").get("K") == "sk-typed-unseen"
