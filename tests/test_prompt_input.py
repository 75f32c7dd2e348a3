"""What the user gives: words alone, text piped in, files; bounded in time and in size."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from chat_support import asked, talking
from cli_support import cli, environment, served, tieredllm, two_clouds

MB = 1024 * 1024


@pytest.fixture
def home(tmp_path):
    return tmp_path / "user"


def endless(home, *args: str, stdin: int) -> tuple[int, str, float]:
    """Run a command whose stdin stays open, and give its exit code, its stderr and the seconds."""
    started = time.monotonic()
    done = subprocess.run(
        tieredllm(*args),
        stdin=stdin,
        capture_output=True,
        env=environment(home),
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr.decode(), time.monotonic() - started


@pytest.mark.parametrize("args", [["why?"], ["why", "is", "it?"], ["-q", "why?"], ["-r", "why?"]])
def test_words_without_a_command_are_a_question(home, args):
    """`tieredllm "question"` is `ask`, with whatever options."""
    with talking() as server:
        done = cli(home, "-p", two_clouds(home, server.url + "/v1"), *args)

    assert done.stdout.decode().startswith("You said: why")


def test_piped_text_alone_is_a_question(home):
    """Text piped into `tieredllm` alone is `ask`, also behind global options."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        done = cli(home, "-p", path, stdin=b"why?")

    assert done.stdout == b"You said: why?\n"


def test_nothing_piped_in_is_help(home):
    """With nothing on stdin the help is printed, and the exit code is 2."""
    done = cli(home)

    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Usage: tieredllm" in done.stderr


def test_a_dash_as_a_file_is_stdin(home):
    """`-f -` attaches stdin, once, in its place among the files."""
    (home / "a.txt").parent.mkdir(parents=True)
    (home / "a.txt").write_text("first")
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        cli(home, "-p", path, "ask", "-f", str(home / "a.txt"), "-f", "-", "q?", stdin=b"second")
        message = asked(server)

    assert message.index("first") < message.index("second") < message.index("q?")
    assert message.count("second") == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-", "-f", "-"], "only once"),
        (["-", "-"], "only once"),
        (["-f", "-", "-a", "-", "q"], "only once"),
        (["-f", "-", "-f", "-", "q"], "only once"),
        (["--no-stdin", "-"], "--no-stdin leaves it alone"),
        (["--no-stdin", "-f", "-", "q"], "--no-stdin leaves it alone"),
        (["--no-stdin", "-a", "-", "q"], "--no-stdin leaves it alone"),
    ],
)
def test_stdin_is_read_once_or_not_at_all(home, args, said):
    """What contradicts itself about stdin is wrong usage."""
    done = cli(home, "ask", *args, stdin=b"text")

    assert done.returncode == 2
    assert said in done.stderr.decode()


def test_a_loop_keeps_its_stdin(home):
    """With --no-stdin a `while read` loop runs once for each line."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        command = " ".join(tieredllm("-p", path, "ask", "--no-stdin"))
        done = subprocess.run(
            f'printf "1\\n2\\n3\\n" | while read -r x; do {command} "$x"; done',
            shell=True,
            capture_output=True,
            env=environment(home),
            timeout=60,
            check=False,
        )

    assert done.stdout == b"You said: 1\nYou said: 2\nYou said: 3\n"


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_an_open_stdin_is_waited_for_within_the_deadline(home, kind):
    """A stdin that nobody closes is told of, and given up at the deadline: pipe and socket."""
    if kind == "pipe":
        stdin, other = os.pipe()
        code, err, took_s = endless(home, "ask", "hi", "--deadline", "2.5", stdin=stdin)
        os.close(stdin)
        os.close(other)
    else:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            code, err, took_s = endless(
                home, "ask", "hi", "--deadline", "2.5", stdin=theirs.fileno()
            )

    assert code == 1
    way_out = "(--no-stdin or `< /dev/null` does without)"
    assert err.splitlines() == [
        f"tieredllm: waiting for text on stdin {way_out}",
        f"tieredllm: stdin did not end within the deadline of 2.5 s {way_out}",
    ]
    assert 2.5 <= took_s < 8


def test_the_profiles_deadline_bounds_silence_alone(home):
    """What comes slowly is read to its end, however long it takes; silence is given up."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("deadline_s: 1\n")
        slow = "for i in 1 2 3 4; do echo $i; sleep 0.6; done"
        done = subprocess.run(
            f"({slow}) | " + " ".join(tieredllm("-p", path, "ask", "q?")),
            shell=True,
            capture_output=True,
            env=environment(home),
            timeout=60,
            check=False,
        )
        stdin, other = os.pipe()
        code, err, _ = endless(home, "-p", path, "ask", "q?", stdin=stdin)
        os.close(stdin)
        os.close(other)

    assert b"4\n\nq?" in done.stdout
    assert (code, "within the deadline of 1 s" in err) == (1, True)


def peak_bytes(process):
    """Wait for a process and return the most memory it had.

    `ru_maxrss` would not do: it counts what the parent had when it forked, too.
    """
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            peak = max(peak, 1024 * int(found[1]) if found else 0)
        time.sleep(0.01)
    return peak


def test_an_endless_stdin_is_refused_in_bounded_memory(home):
    """`yes | tieredllm` is exit 2 with the bound named, and takes little more memory than it."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        with (
            (home / "err").open("wb") as err,
            subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes,
            subprocess.Popen(
                tieredllm("-p", path, "ask", "x"),
                stdin=yes.stdout,
                stderr=err,
                env=environment(home),
            ) as process,
        ):
            peak = peak_bytes(process)
            yes.kill()

    assert process.returncode == 2
    said = "tieredllm: stdin is over 64 MB: give the part that matters\n"
    assert (home / "err").read_text() == said
    assert server.requests == []
    assert peak < 160 * MB


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (os.urandom(300_000), "is no text"),
        (b"GIF89a\0\0", "byte 6 is a NUL"),
        (b"a\0", "byte 1 is a NUL"),
        (b"a" * 2 * MB + b"\0", "is no text"),
    ],
)
def test_binary_input_is_refused(home, data, said):
    """What has NULs in it is no text: exit 2 and no request, from stdin and from a file."""
    home.mkdir(parents=True)
    (home / "data").write_bytes(data)
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        piped = cli(home, "-p", path, "ask", "what is this", stdin=data)
        filed = cli(home, "-p", path, "ask", "-f", str(home / "data"), "what is this")

    assert (piped.returncode, filed.returncode) == (2, 2)
    assert said in piped.stderr.decode()
    assert said in filed.stderr.decode()
    assert server.requests == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_tells_the_encoding(home, encoding):
    """Text with a byte order mark comes through whole, the mark left out."""
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        done = cli(home, "-p", path, "ask", "-", stdin=(mark + "Grüße, 世界").encode(encoding))

    assert done.stdout.decode() == "You said: Grüße, 世界\n"
    assert done.stderr == b""


def test_only_plain_files_are_attached(home):
    """A FIFO, a device or a directory as `-f` is refused at once, a shell's <(command) is read."""
    home.mkdir(parents=True)
    os.mkfifo(home / "fifo")
    refused = [
        cli(home, "ask", "-f", str(name), "q", timeout=10).stderr.decode()
        for name in (home / "fifo", "/dev/zero", home)
    ]
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        command = " ".join(tieredllm("-p", path, "ask", "-f", "<(echo inside)", "q?"))
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, env=environment(home), check=False
        )

    assert [("no plain file" in said, "directory" in said) for said in refused] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    assert b"inside" in done.stdout


def test_a_large_file_is_refused(home):
    """A file over the bound is exit 2; nothing is asked."""
    home.mkdir(parents=True)
    with (home / "large").open("wb") as file:
        for _ in range(65):
            file.write(b"x" * MB)
    done = cli(home, "ask", "-f", str(home / "large"), "q")

    assert done.returncode == 2
    assert "large is over 64 MB" in done.stderr.decode()


def test_what_was_waited_for_counts(home):
    """The deadline is for reading stdin and answering together."""
    ours, theirs = socket.socketpair()

    def feed() -> None:
        time.sleep(1.5)
        theirs.sendall(b"text")
        theirs.close()

    threading.Thread(target=feed, daemon=True).start()
    with ours, socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        path = two_clouds(home, url)
        _, _, took_s = endless(
            home, "-p", path, "ask", "--require-llm", "--deadline", "3", "q", stdin=ours.fileno()
        )

    assert 2.5 < took_s < 4.3


PAGES = {
    "/notes.txt": (200, "text/plain; charset=latin-1", "The code is 4711, né.\n".encode("latin-1")),
    "/page": (200, "text/html", b"<title>T</title><script>x()</script><p>The code is <b>4712</b>."),
    "/app.bin": (200, "application/octet-stream", b"\0\1\2"),
    "/shot": (200, "application/octet-stream", b"\x89PNG\r\n\x1a\n\0"),
    "/packed": (200, "text/plain\r\nContent-Encoding: gzip", b"\x1f\x8b"),
    "/nothing": (404, "text/html", b"<title>Not here</title>"),
}


async def web(connection):
    """Serve pages, and send `/moved` on to the notes."""
    path = connection.received.path.partition("?")[0]
    if path == "/moved":
        await connection.send(
            b"HTTP/1.1 302 Found\r\nLocation: /notes.txt\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        return
    status, kind, body = PAGES[path]
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    await connection.send(head.encode() + body)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/notes.txt", "The code is 4711, né."),
        ("/moved", "The code is 4711, né."),
        ("/page", "The code is 4712."),
    ],
)
def test_a_file_may_be_a_url(home, path, text):
    """`-f URL` and `/file URL` fetch a text, from this machine too; of a page its text counts."""
    with served(web) as pages, talking() as server:
        used = two_clouds(home, server.url + "/v1")
        done = cli(home, "-p", used, "ask", "-f", pages.url + path, "what code?")
        by_option = asked(server)
        cli(home, "-p", used, "chat", stdin=f"/file {pages.url}{path}\nwhat code?\n".encode())
        by_command = asked(server)

    assert done.returncode == 0, done.stderr
    assert text in by_option
    assert f"{pages.url}{path}" in by_option
    assert "x()" not in by_option
    assert text in by_command


def test_what_opens_a_url_is_for_its_server_alone(home):
    """A password or a token in it reaches neither a vendor nor what is said of a failure."""
    with served(web) as pages, talking() as server:
        used = two_clouds(home, server.url + "/v1")
        url = pages.url.replace("://", "://me:s3cret@")
        cli(home, "-p", used, "ask", "-f", f"{url}/page?token=t0ken", "what code?")
        sent = asked(server)
        opened = [request.headers["authorization"] for request in pages.requests]
        failed = cli(home, "-p", used, "ask", "-f", f"{url}/nothing?token=t0ken", "what code?")

    assert "The code is 4712." in sent
    assert opened == ["Basic bWU6czNjcmV0"]
    assert b"status 404" in failed.stderr
    for text in (sent, failed.stderr.decode()):
        assert "s3cret" not in text
        assert "t0ken" not in text


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nothing", "answered with status 404: Not here"),
        ("/app.bin", "is application/octet-stream: only text can be read"),
        ("/packed", "it is packed (gzip), unasked"),
        ("/shot", "/shot` attaches an image or a PDF"),
    ],
)
def test_a_url_that_is_no_text_is_refused(home, path, why):
    """One line says what is wrong, and no tier is asked."""
    with served(web) as pages, talking() as server:
        used = two_clouds(home, server.url + "/v1")
        done = cli(home, "-p", used, "ask", "-f", pages.url + path, "what code?")

    assert (done.returncode, done.stdout, server.requests) == (2, b"", [])
    assert why in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_url_that_cannot_be_reached_is_said(home):
    """A refused connection is one line, and exit code 2."""
    done = cli(home, "ask", "-f", "http://127.0.0.1:9/x", "why?")

    assert done.returncode == 2
    assert b"nothing listens there (connection refused)" in done.stderr
