"""`read_file` and `list_files` reach what lies below the working directory, and nothing else."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from tools_support import used

from tieredllm.tools.base import MAX_RESULT_BYTES, ToolFailureError
from tieredllm.tools.builtin import files
from tieredllm.tools.builtin.files import MAX_FILE_BYTES, make_list_files, make_read_file
from tieredllm.tools.builtin.sandbox import Sandbox

SECRET = "outside secret"


@pytest.fixture
def root(tmp_path):
    """Make a working directory with something beside it."""
    folder = tmp_path / "work"
    (folder / "src" / "deep").mkdir(parents=True)
    (folder / "notes.txt").write_text("first\nsecond\n")
    (folder / "src" / "main.py").write_text("print('hi')\n")
    (folder / "src" / "deep" / "leaf.txt").write_text("leaf\n")
    (folder / ".env").write_text("API_KEY=1\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("token\n")
    (tmp_path / "outside.txt").write_text(SECRET)
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "file.txt").write_text(SECRET)
    return folder


@pytest.fixture(params=[False, True], ids=["walking", "by name"])
def read(root, request, monkeypatch):
    """Read files both ways: walking open directories, and checking resolved names."""
    if request.param:
        original = Sandbox.__init__

        def by_name(self, root, *, private=(), by_name=True):
            original(self, root, private=private, by_name=True)

        monkeypatch.setattr(Sandbox, "__init__", by_name)
    return lambda path, **more: used(make_read_file(root), path=path, **more)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("notes.txt", "first\nsecond\n"),
        ("./notes.txt", "first\nsecond\n"),
        ("src/main.py", "print('hi')\n"),
        ("src/../notes.txt", "first\nsecond\n"),
        ("src//deep/./leaf.txt", "leaf\n"),
    ],
)
def test_what_lies_below_is_read(read, path, expected):
    """Any spelling of a path that stays below works."""
    assert read(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "../outside.txt",
        "src/../../outside.txt",
        "src/deep/../../../beside/file.txt",
        "../work/../outside.txt",
        "..",
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "~/.bashrc",
        "~root/x",
        "notes.txt\0.md",
        ".env",
        ".git/config",
        "src/../.env",
        "src",
        "missing.txt",
        "notes.txt/x",
        "src/missing/leaf.txt",
        "a" * 3000,
    ],
)
def test_what_does_not_is_refused(read, path):
    """Neither `..` nor absolute paths, hidden names, directories or missing files are read."""
    with pytest.raises(ToolFailureError) as caught:
        read(path)

    assert SECRET not in str(caught.value)


def test_an_absolute_path_is_refused_even_below(read, root):
    """An absolute path is refused wherever it leads: the rule is simple."""
    with pytest.raises(ToolFailureError, match="not relative"):
        read(str(root / "notes.txt"))


@pytest.mark.parametrize(
    "target",
    [
        "../outside.txt",
        "../../outside.txt",
        "../beside/file.txt",
        "{tmp}/outside.txt",
        "/etc/passwd",
        "/proc/self/environ",
        "src/../../outside.txt",
        ".env",
        "/dev/zero",
        "{tmp}/work/../outside.txt",
    ],
)
def test_links_that_lead_out_are_refused(read, root, target):
    """A link is followed by its target, and the target has to be inside and not hidden."""
    (root / "link").symlink_to(target.format(tmp=root.parent))
    with pytest.raises(ToolFailureError) as caught:
        read("link")

    assert SECRET not in str(caught.value)


def test_a_directory_that_is_a_link_out_is_refused(read, root):
    """The directories on the way count, too."""
    (root / "shortcut").symlink_to("../beside")
    with pytest.raises(ToolFailureError):
        read("shortcut/file.txt")
    with pytest.raises(ToolFailureError):
        used(make_list_files(root), path="shortcut")


def test_links_that_stay_inside_are_followed(read, root):
    """Links to files and directories below the root work, relative or absolute, through others."""
    (root / "one").symlink_to("src/deep")
    (root / "two").symlink_to("one/../main.py")
    (root / "three").symlink_to(root.resolve() / "notes.txt")
    (root / "src" / "up").symlink_to("../notes.txt")

    assert read("one/leaf.txt") == "leaf\n"
    assert read("two") == "print('hi')\n"
    assert read("three") == "first\nsecond\n"
    assert read("src/up") == "first\nsecond\n"


def test_circles_of_links_end(read, root):
    """A link to itself is a failure, not a hang."""
    (root / "round").symlink_to("round")
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")

    for path in ("round", "a", "a/x"):
        with pytest.raises(ToolFailureError):
            read(path)


def test_a_root_that_is_a_link_works(tmp_path, root):
    """The working directory itself may be reached through a link."""
    (tmp_path / "alias").symlink_to(root)

    assert used(make_read_file(tmp_path / "alias"), path="src/main.py") == "print('hi')\n"


def test_fifos_sockets_and_devices_are_not_opened(read, root, monkeypatch):
    """Nothing that is no regular file is read, and nothing waits for a FIFO's writer."""
    os.mkfifo(root / "fifo")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        started = time.perf_counter()
        for path in ("fifo", "sock"):
            with pytest.raises(ToolFailureError, match="a device, a FIFO or a socket"):
                read(path)

    assert time.perf_counter() - started < 1


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="there is no /proc")
@pytest.mark.parametrize(
    ("folder", "path"),
    [("/", "proc/self/environ"), ("/proc", "self/environ"), ("/", "proc/1/root/etc/passwd")],
)
@pytest.mark.parametrize("by_name", [False, True])
def test_files_of_the_kernel_are_out_of_reach(folder, path, by_name):
    """Even in the root directory, what `/proc` tells of processes and their keys stays there."""
    sandbox = Sandbox(Path(folder), by_name=by_name)
    with pytest.raises(ToolFailureError), sandbox.file(path):
        pytest.fail("it was opened")
    with pytest.raises(ToolFailureError), sandbox.file("dev/zero"):
        pytest.fail("it was opened")


def test_private_files_stay_closed(root):
    """The file with the keys is not read even when it lies below, under another name, too."""
    keys = root / "keys.yaml"
    keys.write_text("OPENAI_API_KEY: x\n")
    os.link(keys, root / "other.yaml")
    tool = make_read_file(root, private=[keys])

    for path in ("keys.yaml", "other.yaml"):
        with pytest.raises(ToolFailureError, match="is private"):
            used(tool, path=path)


def test_a_link_put_in_place_while_it_walks_leads_nowhere(root):
    """However often a directory and a link to the outside change places, no secret is read."""
    inside, outside = root / "swap", root.parent / "beside"
    spare = root / "spare"
    spare.mkdir()
    (spare / "file.txt").write_text("inside")
    ended = threading.Event()

    def swap():
        while not ended.is_set():
            try:
                spare.rename(inside)
                inside.rename(spare)
                inside.symlink_to(outside)
                inside.unlink()
            except OSError:
                pass

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        sandbox = Sandbox(root)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            try:
                with sandbox.file("swap/file.txt") as descriptor:
                    seen.add(os.read(descriptor, 100))
            except ToolFailureError:
                seen.add(None)
    finally:
        ended.set()
        thread.join()

    assert SECRET.encode() not in seen
    assert None in seen


def test_descriptors_are_closed(root):
    """A hundred calls, failed ones included, leave no file open."""
    (root / "link").symlink_to("../outside.txt")
    descriptors = Path("/dev/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(50):
        used(make_read_file(root), path="src/deep/leaf.txt")
        for path in ("link", "src/deep", "nope", "../x", "src/../.."):
            with pytest.raises(ToolFailureError):
                used(make_read_file(root), path=path)
        used(make_list_files(root), recursive=True)
    after = len(list(descriptors.iterdir()))

    assert after <= before + 2


def test_large_and_binary_files_are_refused(root):
    """A file above the limit, or with NUL bytes in it, is a failure that says so."""
    (root / "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    (root / "binary").write_bytes(b"\x7fELF\0\0\0")

    with pytest.raises(ToolFailureError, match="at most 1 MiB"):
        used(make_read_file(root), path="large")
    with pytest.raises(ToolFailureError, match="binary"):
        used(make_read_file(root), path="binary")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_known(root, encoding):
    """Text with a byte order mark is decoded by it."""
    (root / "text").write_text("größe €\n", encoding=encoding)

    assert used(make_read_file(root), path="text") == "größe €\n"


def test_bytes_that_are_no_text_are_replaced(root):
    """What cannot be decoded does not keep the rest from being read."""
    (root / "latin").write_bytes(b"gr\xf6\xdfe\n")

    assert used(make_read_file(root), path="latin") == "gr\ufffd\ufffde\n"


def test_a_long_file_is_read_in_parts(root):
    """Each part names its lines and where to go on; together they are the file."""
    text = "".join(f"line {number} {'x' * 90}\n" for number in range(1, 1001))
    (root / "long").write_text(text)
    tool = make_read_file(root)
    parts, start = [], 1
    while start:
        told = used(tool, path="long", from_line=start)
        head, _, part = told.partition("\n")
        assert len(told.encode()) <= MAX_RESULT_BYTES
        parts.append(part)
        start = int(head.partition("from_line=")[2].rstrip("]") or 0)

    assert "".join(parts) == text
    assert len(parts) > 2


def test_lines_can_be_chosen(root):
    """A range of lines is given, and one beyond the end is a failure."""
    (root / "five").write_text("1\n2\n3\n4\n5\n")
    tool = make_read_file(root)

    told = used(tool, path="five", from_line=2, lines=2)
    assert told == "[lines 2 to 3 of 5; go on with from_line=4]\n2\n3\n"
    with pytest.raises(ToolFailureError, match="5 lines only"):
        used(tool, path="five", from_line=6)
    (root / "empty").write_text("")
    assert used(tool, path="empty") == "(empty is empty.)"


def test_lines_are_counted_as_compilers_count_them(root):
    """Form feeds and Unicode's separators are part of a line, however the lines end."""
    (root / "page").write_bytes("one\f\r\ntwo\u2028\x85two\rthree".encode())

    told = used(make_read_file(root), path="page", from_line=3)
    assert told == "[lines 3 to 3 of 3]\nthree"


def test_listing(root):
    """A listing has sizes, marks directories, and leaves hidden names out."""
    (root / "link").symlink_to("notes.txt")
    (root / "odd\nname").write_text("")
    tool = make_list_files(root)

    assert used(tool) == "link (link)\nnotes.txt (13)\n'odd\\nname' (0)\nsrc/"
    assert used(tool, path="src") == "deep/\nmain.py (12)"
    assert used(tool, pattern="*.py", recursive=True) == "src/main.py (12)"
    assert used(tool, path="src", recursive=True) == "deep/\ndeep/leaf.txt (5)\nmain.py (12)"
    assert used(tool, pattern="*.rs") == "(There is nothing that matches.)"


@pytest.mark.parametrize("path", ["..", "/", "src/../..", ".git", "notes.txt", "nope"])
def test_listing_is_confined_too(root, path):
    """What cannot be read cannot be listed either."""
    with pytest.raises(ToolFailureError):
        used(make_list_files(root), path=path)


def test_a_listing_is_bounded(root, monkeypatch):
    """A huge directory is listed in part, and the listing says so."""
    monkeypatch.setattr(files, "MAX_ENTRIES", 10)
    for number in range(30):
        (root / "src" / f"f{number:02}").write_text("")

    lines = used(make_list_files(root), path="src").split("\n")
    assert len(lines) == 11
    assert lines[-1] == "(There is more that is not listed.)"
    monkeypatch.setattr(files, "MAX_LOOKED_AT", 5)
    assert len(used(make_list_files(root), path="src").split("\n")) <= 6


def test_a_deep_tree_is_bounded(root):
    """A recursive listing stops at a depth."""
    folder = root
    for _ in range(30):
        folder = folder / "d"
        folder.mkdir()
    listed = used(make_list_files(root), recursive=True, pattern="d").split("\n")

    assert len(listed) == files.MAX_DEPTH + 1
