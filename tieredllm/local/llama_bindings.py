"""Reach llama.cpp: llama-cpp-python's C bindings, its log, and a flag native code can watch.

Only the module of C bindings is imported, not the package around it: `import llama_cpp` also brings
numpy, diskcache and a server's worth of types, and takes four times as long.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import ctypes
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.text import printable_line

__all__ = [
    "INSTALL",
    "REINSTALL",
    "SPINS",
    "Flag",
    "StoppedError",
    "binding_stamp",
    "bindings",
    "last_complaint",
    "set_verbose",
]

PREBUILT_INDEX = "https://abetlen.github.io/llama-cpp-python/whl/cpu"
"""Where the project publishes wheels that need no compiler (its README, "Installation")."""
INSTALL = (
    "llama-cpp-python is not installed; with a C compiler: `pip install llama-cpp-python`, "
    f"without: `pip install --no-deps --index-url {PREBUILT_INDEX} llama-cpp-python`"
)
REINSTALL = (
    "this build of llama.cpp does not suit it; try another: `pip install --force-reinstall "
    f"--no-deps --index-url {PREBUILT_INDEX} llama-cpp-python`"
)
"""What to do where each way to compute crashes, which follows a mention of the processor."""
AMX_REBUILD = (
    "CXXFLAGS=-fno-dse pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python"
)
"""How GCC before 13.3 compiles kernels for AMX that do not crash (see the ladder)."""
WARN_LEVEL = 3
ERROR_LEVEL = 4
"""`GGML_LOG_LEVEL_ERROR` of ggml.h: none 0, debug 1, info 2, warn 3, error 4, cont 5."""
KEPT_LINES = 20
SPINS = "2000"
"""How often a thread looks whether the others are done before it sleeps. libgomp's 300,000 makes
threads that wait keep the processor from those they wait for: with one other busy program on two
cores a token takes 20 times as long instead of 5 times. On an idle machine there is no difference.
https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html"""


class StoppedError(Exception):
    """Report that work was stopped because nobody waits for it any more."""


class Flag:
    """A flag that native code can watch without asking Python.

    llama.cpp calls its abort callback between the nodes of a graph, hundreds of times for a token.
    A Python function there costs a tenth of the speed. `strlen` does not: over a buffer that holds
    an empty string it gives 0 (go on), and 1 (stop) once the first byte is set.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """Tell native code to stop."""
        self._buffer[0] = b"\x01"

    def clear(self) -> None:
        """Let native code go on."""
        self._buffer[0] = b"\x00"

    def is_set(self) -> bool:
        """Whether native code was told to stop."""
        return self._buffer.raw[0] != 0

    def watch(self, llama: ModuleType, context: Any) -> Any:
        """Make a context's computations stop when the flag is set.

        Returns:
            What must stay referenced for as long as the context lives.
        """
        data = ctypes.cast(self._buffer, ctypes.c_void_p)
        callback = ctypes.cast(_c_library().strlen, llama.ggml_abort_callback)
        llama.llama_set_abort_callback(context, callback, data)
        return callback, self._buffer


def _c_library() -> Any:
    """Return the C library of this process."""
    return ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)


class _Log:
    """llama.cpp's log, which is one per process: silent, or its warnings on stderr."""

    def __init__(self) -> None:
        self.verbose = False
        self.errors: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._level = 0
        self._callback: Any = None

    def attach(self, llama: ModuleType) -> None:
        """Become where llama.cpp logs to, until the interpreter goes down."""
        self._callback = llama.llama_log_callback(self._take)
        llama.llama_log_set(self._callback, None)
        atexit.register(self._detach, llama)

    def _take(self, level: int, text: bytes, _data: Any) -> None:
        # An exception must not pass into native code; ctypes would print it.
        try:
            self._level = level if level <= ERROR_LEVEL else self._level
            line = text.decode("utf-8", "replace")
            if self._level == ERROR_LEVEL and line.strip():
                self.errors.append(line.strip())
            if self.verbose and self._level >= WARN_LEVEL and sys.stderr is not None:
                sys.stderr.write(line)
        except Exception:  # noqa: BLE001, S110 - a log line is not worth a crash
            pass

    def _detach(self, llama: ModuleType) -> None:
        # Native destructors may log after Python is gone. `abs` takes the level and does nothing.
        llama.llama_log_set(ctypes.cast(_c_library().abs, llama.llama_log_callback), None)


_log = _Log()
_lock = threading.Lock()
_loaded: ModuleType | None = None


def bindings() -> ModuleType:
    """Import llama-cpp-python's C bindings, once, and silence the library.

    Raises:
        FallbackTriggerError: the package is missing, or its library cannot be loaded.
    """
    global _loaded  # noqa: PLW0603 - the native library is one per process, too
    with _lock:
        if _loaded is None:
            try:
                llama = _import_bindings()
                _log.attach(llama)
                llama.llama_backend_init()
            except (ImportError, OSError, RuntimeError, AttributeError) as exc:
                raise FallbackTriggerError(
                    ErrorKind.MODEL_UNAVAILABLE, f"llama-cpp-python cannot be loaded: {exc}"
                ) from exc
            _loaded = llama
        return _loaded


def _import_bindings() -> ModuleType:
    """Import `llama_cpp.llama_cpp` without running the package's `__init__`."""
    if "llama_cpp" in sys.modules:
        return importlib.import_module("llama_cpp.llama_cpp")
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, INSTALL)
    package = ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["llama_cpp"] = package
    try:
        with _few_spins():
            return importlib.import_module("llama_cpp.llama_cpp")
    finally:
        # Whoever imports the package later gets all of it.
        del sys.modules["llama_cpp"]


@contextlib.contextmanager
def _few_spins() -> Iterator[None]:
    """Set libgomp's spin count while it is loaded, which is when it reads the environment."""
    if any(name in os.environ for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def binding_stamp() -> str:
    """Tell one build of llama.cpp from another, without importing it.

    A file that one build cannot load, or crashes on, may be fine for the next.

    Raises:
        FallbackTriggerError: the package is missing.
    """
    from pathlib import Path

    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, INSTALL)
    package = Path(spec.origin)
    # The bindings look for the library here (llama_cpp/llama_cpp.py of llama-cpp-python 0.3.36).
    library = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or package.parent / "lib")
    parts = [str(package)]
    for file in (package, *sorted(library.glob("*ggml*")), *sorted(library.glob("*llama*"))):
        with contextlib.suppress(OSError):
            stat = file.stat()
            parts.append(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}")
    return " ".join(parts)


def set_verbose(verbose: bool) -> None:
    """Show llama.cpp's warnings and errors on stderr, or not; the rest is thousands of lines."""
    _log.verbose = verbose


def last_complaint() -> str | None:
    """Return the error llama.cpp logged last, and forget it."""
    lines = list(_log.errors)
    _log.errors.clear()
    # The first of a series names the cause; the rest repeat it on the way up.
    return printable_line(lines[0]) if lines else None  # it may repeat what a file says
