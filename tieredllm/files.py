"""Know the user's directories and what ships; read files within bounds, write them whole."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

__all__ = [
    "NOWHERE",
    "Places",
    "UnfitFileError",
    "atomic_write",
    "one_at_a_time",
    "read_file",
    "shipped",
    "working_directory",
]

APP = "tieredllm"

NOWHERE = Path(os.devnull) / APP
"""Nothing is found below what is no directory, and nothing can be made there."""

_BINARY = getattr(os, "O_BINARY", 0)
"""Windows would write each line feed as two characters without it."""


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """The four directories of one user; none of them need exist."""

    config: Path
    data: Path
    state: Path
    cache: Path

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Places:
        """Return the platform's own places, or all four under `TIEREDLLM_HOME`.

        A user without a home (a container's, a service's) has places where nothing is nor can be.
        """
        home = env.get("TIEREDLLM_HOME")
        if home:
            root = Path(home).expanduser()
            return cls(
                config=root / "config",
                data=root / "data",
                state=root / "state",
                cache=root / "cache",
            )
        import platformdirs

        dirs = platformdirs.PlatformDirs(APP, appauthor=False)

        def found(kind: str) -> Path:
            try:
                path = Path(getattr(dirs, f"user_{kind}_dir"))
            except RuntimeError:  # neither HOME nor an entry for this user
                return NOWHERE / kind
            return path if path.is_absolute() else NOWHERE / kind

        return cls(
            config=found("config"),
            data=found("data"),
            state=found("state"),
            cache=found("cache"),
        )

    @property
    def is_nowhere(self) -> bool:
        """Whether this user has no home, so that nothing is found or kept."""
        return NOWHERE in self.state.parents

    @property
    def profiles(self) -> Path:
        """Where the user's own profiles are."""
        return self.config / "profiles"

    @property
    def models(self) -> Path:
        """Where pulled model files are."""
        return self.data / "models"

    @property
    def state_db(self) -> Path:
        """The one SQLite file: health, history, learned parameters, outbox."""
        return self.state / "state.db"

    @property
    def keys_file(self) -> Path:
        """Where `keys set` keeps API keys (mode 0600)."""
        return self.config / "keys.yaml"

    @property
    def approvals_file(self) -> Path:
        """What tools were approved for good."""
        return self.state / "approvals.json"


def shipped(folder: str) -> Path:
    """Return a folder that ships with tieredllm: `profiles` or `models`.

    In a wheel it lies inside the package (see `force-include` in pyproject.toml); in a checkout or
    an editable install it is the folder of that name at the top level.
    """
    package = Path(__file__).parent
    inside = package / "shipped" / folder
    return inside if inside.is_dir() else package.parent / folder


def working_directory() -> Path:
    """Return where the user is; a place where nothing is when that was removed meanwhile."""
    try:
        return Path.cwd()
    except OSError:
        return NOWHERE


class UnfitFileError(OSError):
    """Something that is no file, or larger than it may be; `strerror` says which."""


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """Read a regular file of a bearable size, and wait for nothing else.

    Opening a FIFO waits for whoever writes to it, and a device may never end.

    Args:
        path: the file.
        max_bytes: the most it may hold.

    Raises:
        UnfitFileError: it is something else, or larger.
        OSError: it cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY
    if path.is_dir():  # Windows calls it "permission denied"
        raise UnfitFileError(errno.EISDIR, "this is a directory", str(path))
    with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - of a descriptor
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnfitFileError(errno.EINVAL, "this is a pipe or a device, not a file", str(path))
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        most = f"{max_bytes // 1024 // 1024} MiB"
        raise UnfitFileError(errno.EFBIG, f"the file is larger than {most}", str(path))
    return data


def atomic_write(
    path: Path, content: str | bytes, *, private: bool = False, part: Path | None = None
) -> None:
    """Put a file in place at once: whoever reads it finds the old content or the new, never half.

    A link stays a link: what it points to is replaced. A file that was there keeps its permissions.
    It is on the disk before it is in place. Its directory must exist.

    Args:
        path: the file.
        content: text is written as UTF-8, lone surrogates as `?`.
        private: whether only its owner may read it (mode 0600), whoever could before.
        part: where the content is written first, on the same file system: who holds a lock names
            it, so that what a killed process left is replaced. Otherwise a name of its own.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    target = path.resolve()
    if part is None:  # not named after the file, whose name may be as long as the system allows
        part = target.with_name(f".{os.urandom(8).hex()}.part")
    else:
        part.unlink(missing_ok=True)
    mode = 0o600 if private else 0o666
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)
        with os.fdopen(descriptor, "wb") as file:
            if not private and target.exists():
                part.chmod(target.stat().st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def one_at_a_time(
    file: Path,
    on_wait: Callable[[], None] = lambda: None,
    *,
    wait_s: float = -1,
    mode: int = -1,
) -> Iterator[None]:
    """Have a file for oneself, among all processes, while the body runs.

    Args:
        file: it need not be there; its directory must.
        on_wait: called once if another process has it.
        wait_s: the longest wait for that process; negative for as long as it takes.
        mode: the lock file's permissions; negative for what the umask leaves.

    Raises:
        filelock.Timeout: the other process has it still.
        OSError: the lock file cannot be made.
    """
    import filelock

    path = file.with_name(f".{file.name}.lock")
    lock = filelock.FileLock(path, mode=mode)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        on_wait()
        lock.acquire(timeout=wait_s)
    try:
        yield
    finally:
        # While it is ours: filelock looks whether what a waiting process got still has a name.
        with contextlib.suppress(OSError):  # an open file cannot be removed on Windows
            path.unlink()
        lock.release()
