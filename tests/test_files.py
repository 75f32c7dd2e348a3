"""A file is written whole or not at all, and read only within its bound."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tieredllm.files import UnfitFileError, atomic_write, read_file


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_any_text_is_written_as_it_is(tmp_path):
    """It becomes UTF-8, whatever is in it; nothing else is left in the directory."""
    path = tmp_path / "file"
    atomic_write(path, "naïve \ud800\r\n")

    assert path.read_bytes() == "naïve ?\r\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_private_file_is_private_from_the_start(tmp_path):
    """Only its owner can read it, whoever could before."""
    path = tmp_path / "keys"
    path.write_text("old")
    path.chmod(0o644)
    atomic_write(path, b"new", private=True)

    assert mode(path) == 0o600
    assert path.read_bytes() == b"new"


def test_a_file_keeps_its_permissions(tmp_path):
    """What only its owner could read does not become readable by replacing it."""
    path = tmp_path / "profile.yaml"
    path.write_text("old")
    path.chmod(0o600)
    atomic_write(path, "new")

    assert mode(path) == 0o600


def test_a_new_file_has_the_usual_permissions(tmp_path):
    """The user's umask decides who may read a file that is no secret."""
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", "x")
    finally:
        os.umask(before)

    assert mode(tmp_path / "file") == 0o640


def test_a_link_stays_a_link(tmp_path):
    """What it points to is replaced."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    atomic_write(link, "new")

    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_name_as_long_as_the_file_system_takes(tmp_path):
    """The temporary name does not grow with the file's."""
    path = tmp_path / ("n" * 255)
    atomic_write(path, "x")

    assert path.read_text() == "x"


def test_what_was_there_stays_when_the_new_cannot_be_put_in_place(tmp_path):
    """A directory cannot be replaced by a file: the error arrives, and nothing is left behind."""
    path = tmp_path / "directory"
    path.mkdir()
    with pytest.raises(OSError, match="irectory"):
        atomic_write(path, "x")

    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    """Who holds a lock names the place of the first writing, and finds it free or frees it."""
    path, part = tmp_path / "keys", tmp_path / ".keys.part"
    part.write_text("half a se")
    part.chmod(0o644)
    atomic_write(path, "whole", private=True, part=part)

    assert list(tmp_path.iterdir()) == [path]
    assert mode(path) == 0o600


def test_a_file_up_to_its_bound_is_read(tmp_path):
    """The bound itself is allowed, one byte more is not."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    within = read_file(path, max_bytes=1 << 20)
    path.write_bytes(b"x" * (1 << 20) + b"x")

    assert within == b"x" * (1 << 20)
    with pytest.raises(UnfitFileError, match="the file is larger than 1 MiB"):
        read_file(path, max_bytes=1 << 20)


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither FIFOs nor devices of this kind")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe nobody writes to, a device without an end and a directory are refused at once."""
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UnfitFileError, match="this is a pipe or a device"):
            read_file(path, max_bytes=10)
    with pytest.raises(UnfitFileError, match="this is a directory"):
        read_file(tmp_path, max_bytes=10)
