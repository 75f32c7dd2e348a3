"""Run one model on a thread of its own, for callers on an event loop.

llama.cpp computes for milliseconds to seconds at a time, so it never does on the event loop; and
not in asyncio's default executor either, which a process waits for when it ends. The thread is a
daemon. What it does is stopped within a node of the graph by a flag that llama.cpp watches, within
a tensor while a file is loaded, and within 50 ms while a file is tried in a child process.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import os
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from tieredllm.aio import await_result
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.local.generate import End, Item, Job, answer
from tieredllm.local.ladder import LoadSettings
from tieredllm.local.llama_bindings import Flag, StoppedError, set_verbose
from tieredllm.profile.schema import Params
from tieredllm.thoughts import Split
from tieredllm.types import Message

if TYPE_CHECKING:
    from tieredllm.local.contexts import KeptContexts
    from tieredllm.local.model import LoadedModel
    from tieredllm.local.sequences import Scheduler
    from tieredllm.local.template import ChatFormat

__all__ = ["SHARED", "End", "LlamaRunner", "Prepare", "RunnerPool"]

Prepare = Callable[[Callable[[], bool]], tuple[int, LoadSettings]]
"""Check the file and return the context and the settings to load it with; is told whether to go
on."""

_Post = tuple[asyncio.AbstractEventLoop, Job, "asyncio.Queue[Item]", Item]
"""Something for a job, and the queue and loop where its caller waits for it."""

STACK_BYTES = 16 * 1024 * 1024
"""What llama.cpp computes in; a thread has half a megabyte on macOS unless it asks for more."""
CLOSED = "the model has been closed"


class LlamaRunner:
    """One model file, loaded when it is first wanted.

    Args:
        path: the GGUF file.
        prepare: checks the file before it is loaded, on the runner's thread; may block.
        verbose: whether llama.cpp's log goes to stderr.
        contexts: where what was read is kept for later processes, and looked for; None for not.
    """

    def __init__(
        self,
        path: Path,
        *,
        prepare: Prepare,
        verbose: bool = False,
        contexts: KeptContexts | None = None,
    ) -> None:
        self._contexts = contexts
        self._path = path
        self._prepare = prepare
        self._verbose = verbose
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Job | Future[LoadedModel] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._loading: Future[LoadedModel] | None = None
        self._waiters = 0
        self._wanted = False
        self._closed = False
        self._stop_loading = threading.Event()
        self._stop = Flag()
        self._current: Job | None = None
        self._abortable: set[Job] = set()
        """Those whose end is worth breaking a step of several answers off."""
        self._scheduler: Scheduler | None = None
        self._outbox: list[_Post] = []
        """What a step of several answers has brought, on the thread."""
        self._ended: Future[None] = Future()

    # For callers, on any thread or loop.

    def warm_up(self) -> None:
        """Start loading in the background, and go on even when nobody waits for it any more."""
        self._wanted = True
        with contextlib.suppress(FallbackTriggerError):  # whoever asks for an answer is told
            self._load()

    async def ready(self) -> LoadedModel:
        """Wait until the model is loaded; loading stops when the last who waits gives up.

        Raises:
            FallbackTriggerError: it cannot be loaded (`model_unavailable`).
        """
        while True:
            loading = self._load()
            with self._lock:
                self._waiters += 1
            try:
                return await await_result(loading)
            except StoppedError:
                if self._closed:
                    raise self._unavailable(CLOSED) from None
            finally:
                with self._lock:
                    self._waiters -= 1
                    if not self._waiters and not self._wanted and not loading.done():
                        self._stop_loading.set()

    async def generate(
        self, messages: Sequence[Message], params: Params
    ) -> AsyncGenerator[str | Split | End, None]:
        """Answer a conversation: text as it comes, then one `End`.

        An empty text is a token whose text is not certain yet.

        Closing the iterator stops the computation within one node of the graph.

        Raises:
            FallbackTriggerError: the model cannot be loaded or fails (`model_unavailable`), or the
                conversation does not fit (`context_length`).
        """
        await self.ready()
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Item] = asyncio.Queue()

        def post(item: Item) -> None:
            self._outbox.append((loop, job, items, item))
            if self._scheduler is None:
                self._deliver()

        job = Job(messages, params, post)
        self._forbid_fork()
        with self._lock:
            self._put(job)
        try:
            while True:
                item = await items.get()
                if isinstance(item, StoppedError):
                    raise self._unavailable(CLOSED)
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, End):
                    return
        finally:
            self._cancel(job)

    def close(self) -> None:
        """Stop whatever is going on and free the model, without waiting for it."""
        if os.getpid() != self._process:  # forked: the thread is not here, the lock may be held
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._stop_loading.set()
            self._stop.set()
            self._work.put(None)
            if self._thread is None:
                self._ended.set_result(None)

    async def aclose(self) -> None:
        """Stop whatever is going on, free the model and wait for that; a forked child has none."""
        self.close()
        if os.getpid() == self._process:
            await await_result(self._ended)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end after `close`; False when it has not."""
        if self._thread is None or os.getpid() != self._process:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # Between callers and the thread.

    def _unavailable(self, message: str) -> FallbackTriggerError:
        return FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, message)

    def _load(self) -> Future[LoadedModel]:
        """Return the loading under way or done; start it when there is none, or the last failed."""
        self._forbid_fork()
        with self._lock:
            loading = self._loading
            if loading is not None and (not loading.done() or loading.exception() is None):
                return loading
            loading = Future()
            self._put(loading)
            self._stop_loading.clear()
            self._loading = loading
            return loading

    def _forbid_fork(self) -> None:
        if os.getpid() != self._process:
            raise self._unavailable(
                "this process was forked from one that uses the model: "
                "start processes with `spawn` instead"
            )

    def _put(self, item: Job | Future[LoadedModel]) -> None:
        """Hand something to the thread, and start it if need be; the lock is held."""
        if self._closed:
            raise self._unavailable(CLOSED)
        if self._thread is None:
            name = f"llama.cpp {self._path.name}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            _stop_at_exit(self)
            before = threading.stack_size(STACK_BYTES)
            try:
                self._thread.start()
            finally:
                threading.stack_size(before)
        self._work.put(item)

    def _cancel(self, job: Job) -> None:
        with self._lock:
            job.cancelled = True
            if self._current is job or job in self._abortable:
                self._stop.set()

    # On the thread.

    def _run(self) -> None:
        model: LoadedModel | None = None
        chat: ChatFormat | None = None
        answered = False
        try:
            while (item := self._work.get()) is not None:
                if isinstance(item, Future):
                    try:
                        model, chat = self._load_model()
                    except BaseException as exc:  # noqa: BLE001 - it goes to whoever waits
                        item.set_exception(_translated(exc))
                    else:
                        item.set_result(model)
                elif model is None or chat is None:
                    item.post(self._unavailable("the model is not loaded"))
                elif len(model.sequences) > 1:
                    goes_on = self._serve_several(item, model, chat)
                    self._deliver()
                    if not goes_on:
                        return
                else:
                    answered = self._serve(item, model, chat)
        finally:
            if model is not None and self._contexts is not None and answered:
                with contextlib.suppress(FallbackTriggerError, MemoryError):
                    model.keep_context(self._contexts)
            if model is not None:
                model.close()
            self._fail_rest()
            _no_stop_at_exit(self)
            self._ended.set_result(None)

    def _fail_rest(self) -> None:
        """Tell those who still wait that there will be nothing."""
        while not self._work.empty():
            item = self._work.get()
            if isinstance(item, Future):
                item.set_exception(StoppedError())
            elif item is not None:
                item.post(self._unavailable(CLOSED))
        self._deliver()

    def _deliver(self) -> None:
        """Hand over what was posted; each loop is woken once: a wake-up is two system calls."""
        posts, self._outbox = self._outbox, []
        for loop in {loop for loop, *_ in posts}:
            mine = [post for post in posts if post[0] is loop]
            try:
                loop.call_soon_threadsafe(_put_all, mine)
            except RuntimeError:  # the loop is closed: nobody listens
                for _, job, *_ in mine:
                    job.cancelled = True

    def _go_on_loading(self) -> bool:
        return not self._stop_loading.is_set()

    def _load_model(self) -> tuple[LoadedModel, ChatFormat]:
        n_ctx, settings = self._prepare(self._go_on_loading)
        # What the chat template needs is imported while llama.cpp reads the file.
        threading.Thread(target=_import_jinja, daemon=True).start()
        from tieredllm.local.model import LoadedModel
        from tieredllm.local.template import ChatFormat

        set_verbose(self._verbose)
        model = LoadedModel(
            self._path,
            n_ctx=n_ctx,
            settings=settings,
            stop=self._stop,
            go_on=self._go_on_loading,
        )
        return model, ChatFormat(model.vocabulary)

    def _serve_several(self, job: Job, model: LoadedModel, chat: ChatFormat) -> bool:
        """Answer jobs side by side until there are none; False when the model is to be closed."""
        from tieredllm.local.sequences import Scheduler

        if self._scheduler is None:
            self._scheduler = Scheduler(
                model, chat, abortable=self._say_abortable, translate=_translated
            )
        scheduler = self._scheduler
        scheduler.add(job)
        closed = self._unavailable(CLOSED)
        try:
            while scheduler.is_busy:
                with contextlib.suppress(queue.Empty):
                    while True:
                        item = self._work.get_nowait()
                        if item is None:
                            scheduler.close(closed)
                            return False
                        if isinstance(item, Future):
                            item.set_result(model)
                        else:
                            scheduler.add(item)
                scheduler.step()
                self._deliver()
        except BaseException as exc:  # noqa: BLE001 - it goes to whoever waits
            scheduler.close(closed if isinstance(exc, StoppedError) else _translated(exc))
        return not self._closed

    def _say_abortable(self, jobs: set[Job]) -> None:
        """Take note of whose end breaks the next step off; an earlier end counts no more."""
        with self._lock:
            self._abortable = jobs
            if not self._closed:
                self._stop.clear()
            if jobs and any(job.cancelled for job in jobs):
                self._stop.set()

    def _serve(self, job: Job, model: LoadedModel, chat: ChatFormat) -> bool:
        """Answer a job; False when it came to no end."""
        with self._lock:
            if job.cancelled or self._closed:
                job.post(self._unavailable(CLOSED))
                return False
            self._current = job
            self._stop.clear()
        try:
            end = answer(model, chat, job, self._contexts)
            is_whole = not job.cancelled  # once it is posted, whoever waited cancels
            job.post(end)
            return is_whole
        except BaseException as exc:  # noqa: BLE001 - it goes to whoever waits
            job.post(_translated(exc))
            return False
        finally:
            with self._lock:
                self._current = None


def _put_all(posts: list[_Post]) -> None:
    for _, _, items, item in posts:
        items.put_nowait(item)


def _translated(exc: BaseException) -> BaseException:
    """Return an error that an attempt may end with."""
    if isinstance(exc, FallbackTriggerError | StoppedError):
        return exc
    if isinstance(exc, MemoryError):
        return FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, "out of memory")
    return FallbackTriggerError(ErrorKind.UNEXPECTED, f"{type(exc).__name__}: {exc}")


def _import_jinja() -> None:
    with contextlib.suppress(ImportError):  # told by whoever needs it
        importlib.import_module("jinja2.sandbox")


EXIT_S = 0.8
"""The longest the interpreter waits at its end for threads that compute."""


_running: set[LlamaRunner] = set()
"""Those with a live thread."""


def _stop_at_exit(runner: LlamaRunner) -> None:
    """See to it that a runner is stopped before the interpreter goes down."""
    if not _running:
        atexit.unregister(_stop_all)
        atexit.register(_stop_all)
    _running.add(runner)


def _no_stop_at_exit(runner: LlamaRunner) -> None:
    """Forget a runner whose thread has ended."""
    _running.discard(runner)


def _stop_all() -> None:
    """Stop every thread that computes, and wait for them, but not for long."""
    runners = list(_running)
    for runner in runners:
        runner.close()
    deadline = time.monotonic() + EXIT_S
    with contextlib.suppress(KeyboardInterrupt):
        for runner in runners:
            runner.join(max(0.0, deadline - time.monotonic()))


class RunnerPool:
    """The runners in use, and how many use each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runners: dict[Hashable, tuple[LlamaRunner, int]] = {}

    def take(self, key: Hashable, make: Callable[[], LlamaRunner]) -> LlamaRunner:
        """Return the runner of a key, made if there is none; to be given back once."""
        with self._lock:
            runner, users = self._runners.get(key) or (make(), 0)
            self._runners[key] = (runner, users + 1)
            return runner

    def give_back(self, key: Hashable) -> LlamaRunner | None:
        """Stop using a runner; gives it when it was the last use and it is to be closed."""
        with self._lock:
            runner, users = self._runners[key]
            if users > 1:
                self._runners[key] = (runner, users - 1)
                return None
            del self._runners[key]
            return runner


SHARED = RunnerPool()
"""The pool of this process: the memory a model takes is the process's, whoever asks for it."""
