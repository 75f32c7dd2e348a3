"""Open files below one directory, and nothing else.

A path is walked one name at a time, each opened relative to the directory before it and never
through a link (`O_NOFOLLOW`); links are read and followed here, as far as they stay inside. What
was checked is what is open: there is no moment between in which a link could be put in its place.

Refused are absolute paths, `..` above the root, links that lead out, whatever is no regular file or
directory (devices, FIFOs and sockets are not even opened), files of the kernel (`/proc`, `/sys`),
and hidden names, those that begin with a dot: `.env`, `.ssh`, `.git` and the like hold secrets more
often than answers.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tieredllm.tools.base import ToolFailureError

__all__ = ["Sandbox"]

MAX_LINKS = 40
"""As many as Linux follows (path_resolution(7))."""

KERNEL_FOLDERS = ("/proc", "/sys")

_HAS_DIR_FD = {os.open, os.stat, os.readlink} <= os.supports_dir_fd
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FILE = (
    os.O_RDONLY
    | _NO_LINK
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
# What a link is opened with instead of itself: ELOOP, and EMLINK on FreeBSD.
_LINKED = frozenset({errno.ELOOP, errno.EMLINK, errno.ENOTDIR})


class Sandbox:
    """Return access to what lies below a directory.

    Args:
        root: the directory; everything else is out of reach.
        private: files that stay closed wherever they lie, such as the one with the API keys.
        by_name: whether to check resolved names instead of walking open directories; what a
            system without `openat` (Windows) has to make do with.
    """

    def __init__(
        self, root: Path, *, private: Sequence[Path] = (), by_name: bool = not _HAS_DIR_FD
    ) -> None:
        self._root = root
        self._private = tuple(private)
        self._by_name = by_name

    @contextmanager
    def file(self, path: str) -> Iterator[int]:
        """Open a regular file for reading; give its descriptor, closed afterwards.

        Raises:
            ToolFailureError: it is not there, not readable, or out of reach.
        """
        descriptor = self._opened(path)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise ToolFailureError(f"{path} is a directory")
            self._check_private(status, path)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def directory(self, path: str) -> Iterator[int | Path]:
        """Open a directory; give what `os.scandir` takes.

        Raises:
            ToolFailureError: it is not there, not readable, or out of reach.
        """
        if self._by_name:
            found = self._resolved(path)
            if not found.is_dir():
                raise ToolFailureError(f"{path} is not a directory")
            yield found
            return
        descriptor = self._opened(path)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise ToolFailureError(f"{path} is not a directory")
            yield descriptor
        finally:
            os.close(descriptor)

    def _opened(self, path: str) -> int:
        names = _names(path)
        try:
            if self._by_name:
                return self._open_resolved(path)
            return self._walked(names, path)
        except FileNotFoundError as exc:
            raise ToolFailureError(f"there is no {path}") from exc
        except OSError as exc:
            if exc.errno in _LINKED:
                raise ToolFailureError(f"{path} is no file or directory") from exc
            reason = (exc.strerror or str(exc)).lower()
            raise ToolFailureError(f"{path} cannot be opened: {reason}") from exc

    def _walked(self, names: deque[str], path: str) -> int:
        """Walk from directory to directory; `stack` holds those between here and the root."""
        stack = [os.open(self._root, _DIRECTORY)]
        kernel = _kernel_devices()
        links = 0
        try:
            while names:
                name = names.popleft()
                if name == "..":
                    if len(stack) == 1:
                        raise _outside(path)
                    os.close(stack.pop())
                    continue
                _check_hidden(name, path)
                status = os.stat(name, dir_fd=stack[-1], follow_symlinks=False)
                if status.st_dev in kernel:
                    raise _outside(path)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > MAX_LINKS:
                        raise ToolFailureError(f"{path} goes through too many links")
                    self._follow(os.readlink(name, dir_fd=stack[-1]), names, stack, path)
                elif stat.S_ISDIR(status.st_mode):
                    stack.append(os.open(name, _DIRECTORY | _NO_LINK, dir_fd=stack[-1]))
                elif stat.S_ISREG(status.st_mode) and not names:
                    return _regular(os.open(name, _FILE, dir_fd=stack[-1]), path)
                elif stat.S_ISREG(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                else:
                    raise _special(path)
            return os.dup(stack[-1])
        finally:
            for descriptor in stack:
                os.close(descriptor)

    def _follow(self, target: str, names: deque[str], stack: list[int], path: str) -> None:
        """Put a link's target in the place of its name."""
        if os.path.isabs(target):  # noqa: PTH117 - a string is at hand
            root = os.path.realpath(self._root)
            inside = os.path.normpath(target)
            if inside != root and not inside.startswith(root.rstrip("/") + "/"):
                raise _outside(path)
            target = os.path.relpath(inside, root)
            while len(stack) > 1:
                os.close(stack.pop())
        names.extendleft(reversed(_parts(target)))

    def _resolved(self, path: str) -> Path:
        for name in _names(path):
            if name != "..":
                _check_hidden(name, path)
        try:
            root = self._root.resolve(strict=True)
            found = (root / path).resolve(strict=True)
        except (OSError, RuntimeError) as exc:  # a circle of links is a RuntimeError
            raise ToolFailureError(f"there is no {path}") from exc
        if not found.is_relative_to(root):
            raise _outside(path)
        for name in found.relative_to(root).parts:
            _check_hidden(name, path)
        if not found.is_file() and not found.is_dir():
            raise _special(path)
        if found.stat().st_dev in _kernel_devices():
            raise _outside(path)
        return found

    def _open_resolved(self, path: str) -> int:
        found = self._resolved(path)
        if found.is_dir():
            raise ToolFailureError(f"{path} is a directory")
        return _regular(os.open(found, _FILE), path)

    def _check_private(self, status: os.stat_result, path: str) -> None:
        for private in self._private:
            with suppress(OSError):
                if os.path.samestat(status, private.stat()):
                    raise ToolFailureError(f"{path} is private")


def _parts(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]


def _names(path: str) -> deque[str]:
    if "\0" in path:
        raise ToolFailureError("a path has no NUL in it")
    plain = path.replace(os.sep, "/")
    if os.path.isabs(path) or os.path.splitdrive(path)[0] or plain.startswith(("/", "~")):  # noqa: PTH117 - a string is at hand
        raise ToolFailureError(
            f"{path} is not relative: give a path relative to the working directory, such as src"
        )
    return deque(_parts(plain))


def _check_hidden(name: str, path: str) -> None:
    if name.startswith("."):
        raise ToolFailureError(f"{path} is hidden: names that begin with a dot are out of reach")


def _regular(descriptor: int, path: str) -> int:
    """Make sure that what was opened is what was looked at."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _special(path)


def _kernel_devices() -> set[int]:
    devices = set()
    for folder in KERNEL_FOLDERS:
        with suppress(OSError):
            if os.path.ismount(folder):
                devices.add(os.stat(folder).st_dev)  # noqa: PTH116 - a string is at hand
    return devices


def _outside(path: str) -> ToolFailureError:
    return ToolFailureError(f"{path} is outside of the working directory")


def _special(path: str) -> ToolFailureError:
    return ToolFailureError(f"{path} is a device, a FIFO or a socket, not a file")
