"""Define the whole way through, for programs: a profile in, answers or events out."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tieredllm.aio import PerLoop, run
from tieredllm.clock import Clock, SystemClock
from tieredllm.engine.plan import TierPlan
from tieredllm.engine.runner import Events, FallbackRun
from tieredllm.errors import Mistake, NoAnswerError, ProfileError, UsageError
from tieredllm.files import Places, working_directory
from tieredllm.health.memory import SqliteHealth
from tieredllm.health.parameters import SqliteParameters
from tieredllm.kinds import ErrorKind
from tieredllm.profile.choose import first_fit, with_model
from tieredllm.profile.schema import Profile, Tier, Tools, rule_files, variables_of
from tieredllm.prompts.policies import prompt_from_messages
from tieredllm.providers.base import WITH_TOOLS
from tieredllm.store.database import Database
from tieredllm.telemetry import CANCELLED, Telemetry
from tieredllm.types import Answer, Answered, Event, Options, Prompt

if TYPE_CHECKING:
    from tieredllm.engine.ports import Controls, Gate
    from tieredllm.engine.preview import Preview
    from tieredllm.engine.tool_loop import ToolLoop
    from tieredllm.health.fleet import FleetHealth
    from tieredllm.health.report import HealthReport, TierReport
    from tieredllm.notify.notifier import Notifier
    from tieredllm.store.history import CachedAnswer
    from tieredllm.tools.approval import Approval, Approver
    from tieredllm.tools.registry import Toolbox

__all__ = ["FallbackManager"]

T = TypeVar("T")
PromptLike = str | Prompt | Sequence[Mapping[str, str]]

LOADED_AHEAD = (
    "html",
    "sqlite3",
    "sniffio",  # httpcore asks it which event loop runs, when it first connects
    "anyio.streams.tls",
    "anyio._backends._asyncio",
    "tieredllm.providers.connections",
    "tieredllm.providers.errors.http",
    "tieredllm.providers.errors.transport",
)
"""Modules that only a request, or only its failure, would load; a test finds what is missing."""


class FallbackManager:
    """The tiers of a profile, asked in order until one answers completely.

    One manager serves any number of requests, also at the same time; they share connections, the
    loaded local model and what is known of each backend's health.

    Args:
        profile: a profile, or the name or path of one; the user's default when None.
        env: where variables (keys, directories) are looked up; the process's when None.
        places: the user's directories; found from `env` when None.
        models: other models to ask, by tier name; a tier's alternates stay.
        model: another model to ask first: in the tier to start at, else in the first that fits,
            where requests then start.
        start: the tier that requests start at unless they say another; the first when None.
        persist: whether health is kept in, and shared through, the state database.
        simulate: faults to play instead of calling a tier, by tier name.
        verbose: whether llama.cpp may print its log on stderr.
        one_question: whether one question is all there will be, so that a local model that loads
            fast is better than one that computes fast.
        keep_contexts: whether a local model keeps what it has read in the cache directory, where
            `aclose` leaves it, so that a later process goes on with the conversation at once.
        sequences: how many answers a local model makes at the same time; further requests wait.
            Several share one context, whose size follows the free memory. Contexts that are kept
            are those of one.
        batch: whether as many requests as can be made at once are there at any time, until all are
            answered, so that a local model computes for several faster than for a few.
        approve_tools: whether tools that may change something run without anybody being asked,
            where the profile says `approve: ask`.
        approver: asks a person about one call; without it, `approve: ask` means no.
        said: takes the name of an MCP server and each line that it says on stderr.
        tool_folders: where the modules of Python tools are looked for besides Python's own places;
            those of the profile's files when it is given by name or path.
        gate: decides when a backend may be asked, where many requests run at the same time; nobody
            when None.
        clock: the time, for tests.
        rng: where jitter comes from, for tests.

    Raises:
        ProfileError: the profile has mistakes; all of them are reported.
        UsageError: there is no such profile, one made in code has a value out of its range, there
            is no such tier to simulate or to start at, none with a model, or the file of a model
            to ask is not there.
    """

    def __init__(
        self,
        profile: Profile | str | Path | None = None,
        *,
        env: Mapping[str, str] | None = None,
        places: Places | None = None,
        models: Mapping[str, str] | None = None,
        model: str | None = None,
        start: str | None = None,
        persist: bool = True,
        simulate: Mapping[str, ErrorKind] | None = None,
        verbose: bool = False,
        one_question: bool = False,
        keep_contexts: bool = False,
        sequences: int = 1,
        batch: bool = False,
        approve_tools: bool = False,
        approver: Approver | None = None,
        said: Callable[[str, str], None] | None = None,
        tool_folders: Sequence[Path] = (),
        gate: Gate | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        from tieredllm.keys import Keys
        from tieredllm.providers.factory import BackendDeps, make_backends
        from tieredllm.providers.http import HttpClients

        self._env = os.environ if env is None else env
        self.places = places or Places.from_environment(self._env)
        if not isinstance(profile, Profile):
            from tieredllm.profile.load import find_profile, load

            named = str(profile) if profile is not None else None
            loaded = load(find_profile(named, self.places), self.places)
            profile = loaded.profile
            tool_folders = loaded.tool_folders
        else:
            profile = _checked(profile, Profile, "the profile")
        values = msgspec.to_builtins(profile) | {"tiers": [tier.values for tier in profile.tiers]}
        written = hashlib.sha256(msgspec.json.encode(values)).hexdigest()[:16]
        for tier, named in (models or {}).items():
            profile = with_model(profile, tier, named)
        self.profile = profile
        self.check_tiers([start] if start is not None else [])
        self.start = start
        """The tier that requests start at unless they say another; None for the first."""
        if model is not None:
            profile, self.start = self._fitted(profile, model, within=start)
        self.profile = profile
        _check_rules(profile)
        self.check_tiers(simulate or {})
        self._clock = clock or SystemClock()
        # Forked processes would all draw the same from a generator that has a state.
        self._rng = rng or random.SystemRandom()
        self._http = HttpClients(self._clock)
        persist = persist and not self.places.is_nowhere
        self.database = Database(self.places.state_db if persist else None)
        self._around = BackendDeps(
            places=self.places,
            env=self._env,
            keys=Keys(self._env, self.places.keys_file),
            http=self._http,
            clock=self._clock,
            look_up=self._look_up,
            simulate=simulate or {},
            verbose=verbose,
            one_question=one_question,
            keep_contexts=keep_contexts,
            sequences=sequences,
            batch=batch,
        )
        self.plans = tuple(
            TierPlan(tier=tier, level=level, backends=make_backends(tier, self._around))
            for level, tier in enumerate(profile.tiers)
        )
        chosen = {*(models or {}), *([self.start] if model is not None else [])}
        for plan in self.plans:
            if plan.tier.name in chosen:
                _check_chosen(plan)
        self._health = self._make_health(eager=one_question)
        self._parameters = SqliteParameters(self.database, self._clock, profile=written)
        self._notifier = self._make_notifier() if persist else None
        self._requests = PerLoop(set[Events], self._end_requests)
        self._deliveries = PerLoop(set[asyncio.Task[None]], self._end_deliveries)
        self._approve_tools = approve_tools
        self._approver = approver
        self._said = said
        self._approval: Approval | None = None
        self._gate = gate
        self._tool_folders = tuple(tool_folders)
        self._toolboxes = PerLoop(self._make_toolbox, lambda toolbox: toolbox.aclose())
        if not one_question:
            self._load_ahead()

    def _load_ahead(self) -> None:
        """Load what an answer may need, the rules above all.

        A process that runs for long may be without a free descriptor when it needs them, or its
        package may have been replaced meanwhile. For one question it would take too long.
        """
        from importlib import import_module

        from tieredllm.providers.http import spare_httpx_its_command_line
        from tieredllm.providers.rules import RulesBackend

        spare_httpx_its_command_line()
        shared = ["redis"] if self.profile.health.shared is not None else []
        for module in (*LOADED_AHEAD, *shared):
            with suppress(ImportError):  # a newer library may do without one
                import_module(module)
        for plan in self.plans:
            for backend in plan.backends:
                if isinstance(backend, RulesBackend):
                    backend.prepare()

    async def stream(
        self,
        prompt: PromptLike,
        context: Mapping[str, Any] | None = None,
        *,
        options: Options | None = None,
        controls: Controls | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield what happens to one request; the last event is `Answered`.

        Text that was streamed by an attempt that then failed is void: `AttemptFailed` says so.
        Closing the iterator ends the request at once.

        Args:
            prompt: a question; or chat messages, oldest first, the last one the user's; or a
                `Prompt`, which keeps attached text apart.
            context: `request_id` (32 hexadecimal digits) and `system` are looked at.
            options: what the request asks for besides.
            controls: what the caller may do while it runs: move on to the next model at once.

        Raises:
            UsageError: the prompt is empty or of no known shape, an option is out of its range or
                names a tier that is not there, or the manager was closed meanwhile.
        """
        context = context or {}
        chosen = self._chosen(options)
        asked = _as_prompt(prompt, context.get("system"), self.profile.system)
        self._around.new_text_chars = len(asked.question) + sum(
            len(attached.text) for attached in asked.attachments
        )
        request = FallbackRun(
            plans=self.plans,
            profile=self.profile,
            prompt=asked,
            options=chosen,
            request_id=str(context.get("request_id") or os.urandom(16).hex()),
            health=self._health,
            parameters=self._parameters,
            clock=self._clock,
            rng=self._rng,
            tools=await self._tooling(),
            gate=self._gate,
            controls=controls,
        )
        requests = await self._requests.get()
        telemetry = Telemetry(at=self._clock.wall(), profile=self.profile.name)
        events = Events(request)
        requests.add(events)
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Answered):
                        telemetry.record(event.answer)
                        # Only begun here, as whoever has the answer need not read any further.
                        await self._notify(event.answer, events)
                    yield event
        except (asyncio.CancelledError, GeneratorExit, UsageError):
            telemetry.record(request.unanswered(), ended_by=CANCELLED)
            raise
        except Exception as exc:
            telemetry.record(request.unanswered(), ended_by=type(exc).__qualname__)
            raise
        finally:
            requests.discard(events)

    async def preview(
        self,
        prompt: PromptLike,
        context: Mapping[str, Any] | None = None,
        *,
        options: Options | None = None,
    ) -> tuple[Preview, ...]:
        """Return what each tier would be sent; nothing is asked. A local model is loaded.

        Args:
            prompt: see `stream`.
            context: see `stream`.
            options: see `stream`.

        Raises:
            UsageError: see `stream`.
        """
        from tieredllm.engine.preview import preview

        asked = _as_prompt(prompt, (context or {}).get("system"), self.profile.system)
        return await preview(self.plans, asked, self._chosen(options))

    async def process_with_fallbacks(
        self,
        prompt: PromptLike,
        context: Mapping[str, Any] | None = None,
        *,
        options: Options | None = None,
    ) -> Answer:
        """Return the first complete answer.

        Args:
            prompt: see `stream`.
            context: see `stream`.
            options: see `stream`.

        Raises:
            NoAnswerError: no tier answered; its `answer` holds every attempt.
            UsageError: see `stream`.
        """
        answer: Answer | None = None
        async for event in self.stream(prompt, context, options=options):
            if isinstance(event, Answered):
                answer = event.answer
        assert answer is not None  # noqa: S101 - the stream's last event is Answered
        if answer.error is not None:
            raise NoAnswerError(answer)
        return answer

    def ask(
        self,
        prompt: PromptLike,
        context: Mapping[str, Any] | None = None,
        *,
        options: Options | None = None,
    ) -> Answer:
        """Return the first complete answer, from code that is not asynchronous.

        Args:
            prompt: see `stream`.
            context: see `stream`.
            options: see `stream`.

        Raises:
            NoAnswerError: no tier answered; its `answer` holds every attempt.
            UsageError: see `stream`; or an event loop runs in this thread.
        """
        if _in_a_loop():
            reason = "ask() is for synchronous code: `await manager.process_with_fallbacks(...)`"
            raise UsageError(reason)
        return run(self.process_with_fallbacks(prompt, context, options=options))

    def secrets(self) -> list[str]:
        """Return the secrets in use, so that whoever keeps a text can strike them out."""
        values = (self._around.keys.get(name) for name in variables_of(self.profile))
        return [value for value in values if value]

    def key_mistakes(self) -> tuple[Mistake, ...]:
        """Return what is wrong with the file of keys; its other keys are used all the same."""
        return self._around.keys.mistakes

    async def check(
        self,
        *,
        probe: bool = True,
        deep: bool = False,
        on_tier: Callable[[TierReport], None] = lambda _: None,
    ) -> HealthReport:
        """Tell how every tier is, all of them probed at the same time.

        Args:
            probe: whether to look now; otherwise what is remembered is told.
            deep: whether to ask each model for one real token, which a vendor bills.
            on_tier: told of each tier as soon as it is known.
        """
        from tieredllm.health.report import check

        return await check(
            self.plans, self._health, self._parameters, probe=probe, deep=deep, on_tier=on_tier
        )

    def cooldowns_s(self) -> dict[str, float]:
        """Return, by tier, in how many seconds one of its models may be asked: where none may now.

        That is, where the circuit of each model that is configured is open.
        """
        now = self._clock.wall()
        waits: dict[str, float] = {}
        for plan in self.plans:
            able = [backend.identity for backend in plan.backends if backend.missing() is None]
            standings = self._health.standings(able).values() if plan.is_language_model else ()
            times = [it.retry_at if it.state == "open" else None for it in standings]
            known = [time for time in times if time is not None]
            if known and len(known) == len(times):
                waits[plan.tier.name] = max(0.0, min(known) - now)
        return waits

    async def use_model(
        self, model: str, tier: str | None = None, *, usual: str | None = None
    ) -> str:
        """Ask another model from now on, and return the name of the tier that does.

        Args:
            model: what the tier's own provider calls the model.
            tier: a tier's name, whose alternates stay; None for the first tier that fits.
            usual: the tier that comes first among those that fit as well.

        Raises:
            UsageError: there is no such tier, none that fits, or the model's file is not there.
        """
        from tieredllm.providers.factory import make_backends

        if tier is None:
            profile, tier = self._fitted(self.profile, model, usual)
        else:
            profile = with_model(self.profile, tier, model)
        former = next(plan for plan in self.plans if plan.tier.name == tier)
        changed = profile.tiers[former.level]
        plan = msgspec.structs.replace(
            former, tier=changed, backends=make_backends(changed, self._around)
        )
        _check_chosen(plan)
        self.plans = tuple(plan if each is former else each for each in self.plans)
        self.profile = profile
        for backend in former.backends:
            await backend.aclose()
        return tier

    def forget(self) -> None:
        """Forget all health and every rejected parameter: the next request tries everything."""
        backends = [backend.identity for plan in self.plans for backend in plan.backends]
        self._health.standings(backends)  # what the fleet knows of them is forgotten, too
        self._health.reset()
        self._parameters.reset()

    async def aclose(self) -> None:
        """Let notifications out, close connections, unload models and close the database.

        Requests of this event loop that have no answer yet end with a `UsageError`. A request that
        is made later opens again what it needs.
        """
        async with AsyncExitStack() as closing:
            # From the last to the first; what comes meanwhile has none of it.
            closing.callback(self.database.close)
            closing.callback(self._health.close)
            self._http.release(closing)
            for plan in self.plans:
                for backend in plan.backends:
                    closing.push_async_callback(backend.aclose)
            self._toolboxes.release(closing)
            self._deliveries.release(closing)
            self._requests.release(closing)

    async def __aenter__(self) -> FallbackManager:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.aclose()

    def _fitted(
        self,
        profile: Profile,
        model: str,
        usual: str | None = None,
        *,
        within: str | None = None,
    ) -> tuple[Profile, str]:
        """Return the profile with a model in the first tier that fits, and that tier's name.

        Raises:
            UsageError: no tier fits, or it is the name of a tier.
        """
        if model in {tier.name for tier in profile.tiers}:
            reason = f"{model!r} is a tier, no model: name both, as {model}=MODEL"
            raise UsageError(reason)
        from tieredllm.local.library import Library

        is_local = Library(self.places, self._env).is_local(model)
        return first_fit(profile, model, is_local=is_local, usual=usual, within=within)

    def _chosen(self, options: Options | None) -> Options:
        """Return a request's options, with the profile's where they say nothing.

        Raises:
            UsageError: a value is out of its range, or there is no tier of a name.
        """
        chosen = _checked(
            Options() if options is None else options, Options, "the options of the request"
        )
        self.check_tiers([name for name in (chosen.start, chosen.max_tier) if name is not None])
        if chosen.start is None and self.start is not None:
            chosen = msgspec.structs.replace(chosen, start=self.start)
        if chosen.require_llm is not None:
            return chosen
        return msgspec.structs.replace(chosen, require_llm=self.profile.require_llm)

    async def _tooling(self) -> ToolLoop | None:
        """Make one request's tools; None, and nothing is imported, when no tier has any."""
        if not any(_has_tools(tier, self.profile.tools) for tier in self.profile.tiers):
            return None
        from tieredllm.engine.tool_loop import ToolLoop
        from tieredllm.tools.approval import Approval, RememberedApprovals
        from tieredllm.tools.execute import ToolSession

        declared = self.profile.tools
        approval = self._approval
        if approval is None:
            approval = Approval(
                declared.approve,
                ask=self._approver,
                approved=self._approve_tools,
                send_to=declared.send_to,
                remembered=RememberedApprovals(self.places.approvals_file),
            )
        if self._approver is not None:
            # A person's conversation goes on from request to request, and so does what it knows.
            self._approval = approval
        approval.begin_request()
        session = ToolSession(
            await self._toolboxes.get(),
            approval=approval,
            max_rounds=declared.max_rounds,
            clock=self._clock,
        )
        return ToolLoop(session)

    def _make_toolbox(self) -> Toolbox:
        from tieredllm.tools.registry import Toolbox

        return Toolbox(
            self.profile.tools,
            cwd=working_directory(),
            env=self._env,
            lookup=self._around.keys.get,
            folders=self._tool_folders,
            private=(self.places.keys_file,),
            clock=self._clock,
            cache=self.places.cache,
            state=self.places.state,
            said=self._said,
        )

    def _look_up(self, prompt: Prompt, *, newer_than: float) -> CachedAnswer | None:
        """Find the last complete answer to the same request, for the cache tier."""
        from tieredllm.store.history import History

        history = History(self.database, self._clock)
        return history.cached_answer(self.profile.name, prompt, newer_than=newer_than)

    def _make_health(self, *, eager: bool) -> SqliteHealth | FleetHealth:
        """Make the memory of health: this host's, and the fleet's where the profile names one."""
        settings = self.profile.health
        own = SqliteHealth(self.database, settings, self._clock)
        url = None if settings.shared is None else self._around.keys.get(settings.shared.url_env)
        if not url:
            return own
        import platform

        from tieredllm.health.fleet import FleetHealth, connect

        return FleetHealth(
            own,
            settings,
            host=f"{platform.node()} {self.places.state}",
            connect=lambda: connect(url),
            eager=eager,
        )

    def _make_notifier(self) -> Notifier | None:
        """Make what tells people of fallbacks, when the profile names a channel."""
        channels = self.profile.notifications
        if not (channels.slack or channels.email or channels.webhook):
            return None
        from tieredllm.notify.notifier import Notifier
        from tieredllm.store.outbox import Outbox

        outbox = Outbox(self.database, self._clock)
        return Notifier(channels, self._around.keys, outbox, self._clock, self.profile.name)

    async def _notify(self, answer: Answer, request: Events) -> None:
        """Tell who is to be told of an answer, beside whatever comes next."""
        notifier = self._notifier
        if notifier is None:
            return
        notifier.note(answer)
        deliveries = await self._deliveries.get()

        async def deliver() -> None:
            # A locked database is waited for after whoever waits for the request's end goes on: two
            # turns of the event loop later, if that end has only just come.
            await request.ended()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await notifier.deliver()

        delivery = asyncio.create_task(deliver())
        deliveries.add(delivery)
        delivery.add_done_callback(
            lambda ended: None if ended.cancelled() else deliveries.discard(ended)
        )

    async def _end_requests(self, requests: set[Events]) -> None:
        """End what still runs, before it would take what is closed for a backend's failure."""
        closed = UsageError("the manager was closed before the request had its answer")
        await asyncio.gather(*(request.break_off(closed) for request in requests))

    async def _end_deliveries(self, deliveries: set[asyncio.Task[None]]) -> None:
        """Let notifications out; a thread delivers what a loop that ends has broken off."""
        if deliveries:
            await asyncio.wait(deliveries)
        notifier = self._notifier
        if notifier is not None and any(delivery.cancelled() for delivery in deliveries):
            notifier.save()
            again = threading.Thread(target=lambda: run(notifier.deliver(patient=False)))
            again.daemon = True
            again.start()

    def check_tiers(self, names: Mapping[str, object] | Sequence[str]) -> None:
        """Make sure that the profile has these tiers.

        Raises:
            UsageError: it lacks one; the message lists those there are.
        """
        known = [tier.name for tier in self.profile.tiers]
        for name in names:
            if name not in known:
                reason = (
                    f"profile {self.profile.name} has no tier {name!r}: it has {', '.join(known)}"
                )
                raise UsageError(reason)


def _check_chosen(plan: TierPlan) -> None:
    """Make sure that a model of this machine that was asked for by name is there.

    Raises:
        UsageError: it is not; another model must not answer in its place without a word.
    """
    backend = plan.backends[0]
    missing = backend.missing() if backend.provider == "llama_cpp" else None
    if missing is not None:
        reason = f"tier {plan.tier.name}: {missing.what}: {missing.fix}"
        raise UsageError(reason)


def _check_rules(profile: Profile) -> None:
    """Report the mistakes of the user's own rule files; the built-in rules have none.

    Raises:
        ProfileError: they have some.
    """
    files = rule_files(profile)
    if not files:
        return
    from tieredllm.rules.load import check_rules_file

    mistakes = [mistake for file in files for mistake in check_rules_file(file)]
    if mistakes:
        raise ProfileError(mistakes)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _has_tools(tier: Tier, declared: Tools) -> bool:
    """Return whether a tier's models may call anything, as far as the profile says."""
    any_declared = bool(declared.builtin or declared.python or declared.mcp)
    providers = {tier.provider, *(alternate.provider for alternate in tier.alternates)}
    able = not providers.isdisjoint(WITH_TOOLS)
    return any_declared and able and tier.tools != "none" and bool(tier.tools)


def _checked(given: object, kind: type[T], what: str) -> T:
    """Return a value whose fields are known to be what they say: at run time a struct takes any.

    Raises:
        UsageError: one is not.
    """
    if not isinstance(given, kind):
        reason = f"{what}: {type(given).__name__} is no {kind.__name__}"
        raise UsageError(reason)
    try:
        return msgspec.convert(msgspec.to_builtins(given), kind)
    except (msgspec.ValidationError, TypeError) as exc:
        raise UsageError(f"{what}: {exc}") from exc


def _as_prompt(prompt: PromptLike, system: str | None, usual: str | None = None) -> Prompt:
    """Return a prompt of any shape as one value.

    Args:
        prompt: see `FallbackManager.stream`.
        system: a system prompt in place of its own.
        usual: the system prompt of one that has none.

    Raises:
        UsageError: it is empty, or of no known shape.
    """
    if isinstance(prompt, str):
        prompt = Prompt(question=prompt)
    elif not isinstance(prompt, Prompt):
        try:
            prompt = prompt_from_messages(prompt)
        except (ValueError, AttributeError, TypeError) as exc:
            reason = f"the prompt is neither a string nor a list of chat messages: {exc}"
            raise UsageError(reason) from exc
    if not isinstance(system, str | None):
        raise UsageError(f"the context's system prompt is no string: {type(system).__name__}")
    if system is None and prompt.system is None:
        system = usual
    if system is not None:
        prompt = msgspec.structs.replace(prompt, system=system)
    if prompt.is_empty:
        reason = "the prompt is empty"
        raise UsageError(reason)
    return prompt
