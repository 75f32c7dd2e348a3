"""`tieredllm batch`: many questions, one file of answers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from typer.core import TyperGroup

from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import (
    MAX_DEADLINE_S,
    GlobalOptions,
    Json,
    RequestCommand,
    make_app,
    takes_options,
)

if TYPE_CHECKING:
    from typer._click.core import Context

    from tieredllm.batch.cluster import ClusterBatch
    from tieredllm.batch.lines import BatchLine
    from tieredllm.batch.output import Output
    from tieredllm.batch.progress import ProgressBar, ProgressLines
    from tieredllm.batch.run import Batch, Checkpoint, Tally
    from tieredllm.client import FallbackManager
    from tieredllm.types import Answer, Options

__all__ = ["app"]

EXAMPLES = """Examples:

\b
  tieredllm batch questions.txt -o answers.jsonl
  tieredllm batch reviews.csv -o out.jsonl --prompt "Good or bad? {text}"
  tieredllm batch requests.jsonl -o out.jsonl --max-tier secondary
  tieredllm batch big.jsonl -o part1.jsonl --shard 1/4
  tieredllm batch merge all.jsonl part*.jsonl
  tieredllm batch status out.jsonl

Started again with the same arguments it goes on where it was: the output is the checkpoint.
"""
REDRAW_S = 0.2
COLLECT_AFTER = (2000, 10, 10)
"""How often garbage is looked for: as in a long-lived program; `__main__` is for short ones."""
SPOOL_BYTES = 2**20
MAX_CONCURRENCY = 4096
SEQUENCES = 16
"""How many lines a local model answers at once: on two cores 2.0 to 2.8 times as fast as one after
the other, with 8 it is 1.8 to 2.1 times."""


class _Group(TyperGroup):
    """Commands of which one is meant when none is named: `batch IN` is `batch run IN`."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Name the command that is meant."""
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = make_app("batch", cls=_Group)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class BatchOptions(GlobalOptions):
    """The options of `batch`."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="The file of answers, which is the checkpoint."
        ),
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="The question, with {field} for a line's fields."
        ),
    ] = None
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="A system prompt.", metavar="TEXT")
    ] = None
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema",
            metavar="FILE|JSON|FIELDS",
            help="A JSON Schema that each answer has to fit, or fields such as 'name, age int'.",
        ),
    ] = None
    concurrency: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="The most lines at once; how many of them a backend gets adapts to it.",
        ),
    ] = "auto"
    deadline_s: Annotated[
        float | None,
        typer.Option("--deadline", metavar="SECONDS", help="Each line, all tiers together."),
    ] = None
    max_tier: Annotated[
        str | None,
        typer.Option(
            "--max-tier",
            metavar="NAME",
            help="The last tier a line may fall to; by default the last language model.",
        ),
    ] = None
    require_llm: Annotated[
        bool, typer.Option("--require-llm", help="Take a rule answer for a failure.")
    ] = False
    reproducible: Annotated[
        bool,
        typer.Option(
            "--reproducible",
            help="Let a local model answer one line after the other: side by side, the same "
            "question may get other words.",
        ),
    ] = False
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Only part I of N, by a hash of the id."),
    ] = None
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask",
            metavar="ADDRESS",
            help="Let the workers of this Dask cluster answer, such as tcp://10.0.0.1:8786.",
        ),
    ] = None
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N lines.")
    ] = None

    def check(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            UsageError: an option is out of range.
        """
        from tieredllm.errors import UsageError

        if self.deadline_s is not None and not 0 < self.deadline_s <= MAX_DEADLINE_S:
            raise UsageError(
                f"--deadline must be above 0 and at most {MAX_DEADLINE_S} seconds, "
                f"not {self.deadline_s:g}"
            )

    @property
    def part(self) -> tuple[int, int] | None:
        """Which part of how many; None for all.

        Raises:
            UsageError: it is no part.
        """
        from tieredllm.errors import UsageError

        if self.shard is None:
            return None
        part, _, parts = self.shard.partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            raise UsageError(
                f"--shard takes I/N with I from 1 to N, such as 1/4, not {self.shard!r}"
            )
        return int(part), int(parts)

    @property
    def at_once(self) -> int:
        """The most lines at once.

        Raises:
            UsageError: it is no number.
        """
        from tieredllm.batch.concurrency import MAX_AT_ONCE
        from tieredllm.errors import UsageError

        if self.concurrency == "auto":
            return MAX_AT_ONCE
        if not self.concurrency.isdecimal() or not 1 <= int(self.concurrency) <= MAX_CONCURRENCY:
            raise UsageError(
                f"--concurrency takes `auto` or a number from 1 to {MAX_CONCURRENCY}, "
                f"not {self.concurrency!r}"
            )
        return int(self.concurrency)


@app.command(
    "run",
    cls=RequestCommand,
    epilog=EXAMPLES,
)
@takes_options(BatchOptions)
def run_batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="OpenAI batch lines, JSON lines, CSV with a header, or a question a line; "
            "`-` is stdin.",
            show_default=False,
        ),
    ],
    *,
    options: BatchOptions,
) -> None:
    """Answer every line of a file, many at once, into another file.

    `tieredllm batch IN` is short for it. Exit code 0: every line is answered; 1: some are not, and
    the same command asks them again; 2: wrong usage, and nothing was asked.
    """
    environment = current()
    options.check()
    gc.set_threshold(*COLLECT_AFTER)
    with contextlib.ExitStack() as stack:
        raise typer.Exit(_run(environment, source, options, stack))


def _run(
    environment: Environment, source: str, options: BatchOptions, stack: contextlib.ExitStack
) -> int:
    from tieredllm.batch.concurrency import AdaptiveGate
    from tieredllm.batch.lines import Reader, Wording
    from tieredllm.batch.output import Index, Output, record_of
    from tieredllm.batch.run import Batch, Tally, open_checkpoint
    from tieredllm.cli.output import print_json_line
    from tieredllm.client import FallbackManager
    from tieredllm.text import pluralize

    at_once, shard = options.at_once, options.part
    path = _output_file(options.output, source)
    gate = AdaptiveGate(at_once)
    progress = None if environment.quiet else _progress(environment)
    sequences = 1 if options.reproducible else min(at_once, SEQUENCES)
    manager = FallbackManager(
        environment.profile_name,
        env=environment.env,
        places=environment.places,
        verbose=environment.verbose,
        sequences=sequences,
        batch=True,
        gate=gate,
        said=partial(_tell, progress) if progress is not None and environment.verbose else None,
    )
    gate.bound_all(manager.plans)
    request = _shared_options(manager, options)
    if path is not None:
        stack.enter_context(_locked(environment, path))
    schema = None
    if options.schema is not None:
        from tieredllm.cli.schema_input import read_schema

        schema = read_schema(options.schema)
    wording = Wording(template=options.prompt, system=options.system, schema=schema)
    file = stack.enter_context(_opened(environment, source))
    reader = Reader(file, source, wording, context=_context(manager))
    index = Index()
    stack.callback(index.close)
    checkpoint = open_checkpoint(reader, path, index, shard=shard, limit=options.limit)
    if reader.undecoded:
        environment.say(f"tieredllm: {source}: bytes that are no UTF-8 were replaced")
    checkpoint.tidy()
    if checkpoint.replaced and path is not None:
        environment.say(
            f"tieredllm: {pluralize(checkpoint.replaced, 'answer')} to other prompts or by another "
            f"profile moved to {path.name}.replaced"
        )
    tally = Tally(checkpoint.total, done=checkpoint.total - checkpoint.pending_count)
    output = Output(path) if path is not None else None

    def write(line: BatchLine, answer: Answer) -> None:
        record = record_of(line, answer)
        if output is not None:
            output.append(record)
        else:
            print_json_line(record, environment)

    pending = checkpoint.pending()
    batch: Batch | ClusterBatch
    if options.dask is None:
        batch = Batch(pending, manager, request, write, at_once=at_once, tally=tally)
    else:
        from tieredllm.batch.cluster import ClusterBatch, WorkerSettings

        settings = WorkerSettings(
            profile=manager.profile, options=request, at_once=at_once, sequences=sequences
        )
        batch = ClusterBatch(options.dask, pending, settings, write, tally=tally)
    return _ask_all(environment, manager, checkpoint, tally, progress, batch=batch, output=output)


def _ask_all(
    environment: Environment,
    manager: FallbackManager,
    checkpoint: Checkpoint,
    tally: Tally,
    progress: ProgressBar | ProgressLines | None,
    *,
    batch: Batch | ClusterBatch,
    output: Output | None,
) -> int:
    """Ask what is left, and say how it went."""
    from tieredllm.aio import run
    from tieredllm.errors import TieredLLMError, UsageError

    path = output.path if output is not None else None

    async def answer_all() -> None:
        drawing = asyncio.create_task(_draw(progress, tally))
        try:
            await batch.run()
        finally:
            drawing.cancel()
            await asyncio.wait([drawing])
            await manager.aclose()

    code, why = ExitCode.OK, None
    try:
        run(answer_all())
    except KeyboardInterrupt:
        code, why = ExitCode.INTERRUPTED, "stopped"
    except UsageError:
        raise
    except TieredLLMError as exc:
        code, why = ExitCode.FAILURE, str(exc)
    except BrokenPipeError:
        raise
    except OSError as exc:
        where = path.name if path is not None else "the answers"
        code, why = ExitCode.FAILURE, f"cannot write {where}: {exc.strerror or exc}"
    finally:
        if output is not None:
            output.close()
    if why is None and path is not None:
        try:
            checkpoint.put_in_order()
        except OSError as exc:
            why_not = exc.strerror or exc
            environment.say(f"tieredllm: the answers stay in the order they came in: {why_not}")
    if tally.failed and code is ExitCode.OK:
        code = ExitCode.FAILURE
    _say_end(environment, tally, path, why)
    return code


def _say_end(environment: Environment, tally: Tally, path: Path | None, why: str | None) -> None:
    from tieredllm.batch.progress import tiers_line
    from tieredllm.text import pluralize

    answered = tally.before + tally.answered
    parts = [f"{answered:,} of {pluralize(tally.total, 'line')} answered"]
    if tally.answered:
        parts[0] += f" ({tiers_line(tally.tiers)})"
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    if tally.cut:
        parts.append(f"{tally.cut:,} cut at a limit")
    if answered < tally.total:
        parts.append(
            "the same command goes on from there"
            if path is not None
            else "with -o OUT it could go on from there"
        )
    line = f"tieredllm: {'; '.join(parts)}"
    if why is not None:
        environment.warn(f"tieredllm: {why}")
    (environment.say if answered == tally.total else environment.warn)(line)


def _progress(environment: Environment) -> ProgressBar | ProgressLines:
    from tieredllm.batch.progress import ProgressBar, ProgressLines

    if environment.stderr.isatty():
        return ProgressBar(environment.console(stderr=True))
    return ProgressLines(environment.stderr)


def _tell(progress: ProgressBar | ProgressLines, server: str, line: str) -> None:
    """Show what an MCP server says on stderr."""
    progress.remark(f"tieredllm: {server}: {line}")


async def _draw(progress: ProgressBar | ProgressLines | None, tally: Tally) -> None:
    """Show how far it is, until it is called off."""
    if progress is None:
        return
    try:
        while True:
            await asyncio.sleep(REDRAW_S)
            progress.show(tally)
    finally:
        progress.close()


def _shared_options(manager: FallbackManager, options: BatchOptions) -> Options:
    """Return what each line asks for.

    Raises:
        UsageError: the profile has no such tier.
    """
    from tieredllm.types import Options

    last = options.max_tier
    if last is not None:
        manager.check_tiers([last])
    else:
        models = [plan.tier.name for plan in manager.plans if plan.is_language_model]
        last = models[-1] if models else None
    return Options(
        max_tier=last,
        patient=True,
        require_llm=options.require_llm or None,  # what the profile says
        deadline_s=options.deadline_s,
    )


def _context(manager: FallbackManager) -> bytes:
    """Return what of the profile decides what is answered, for the hash of each line."""
    import msgspec

    tiers = [tier.values for tier in manager.profile.tiers]
    return hashlib.sha256(msgspec.json.encode(tiers)).digest()


def _output_file(output: Path | None, source: str) -> Path | None:
    """Return the file that answers go to; None for stdout.

    Raises:
        UsageError: it is the input, or can be no file to go on from.
    """
    from tieredllm.errors import UsageError

    if output is None or str(output) == "-":
        return None
    _check_writable(output, ", or `-` for stdout")
    if source != "-" and output.exists() and output.samefile(source):
        raise UsageError("IN and OUT are the same file")
    return output


def _check_writable(output: Path, otherwise: str = "") -> None:
    """Refuse what can be no output, such as a directory or a device.

    Args:
        output: where answers are to go.
        otherwise: what could be named instead of a file.

    Raises:
        UsageError: it says what is there instead.
    """
    from tieredllm.errors import UsageError

    if output.is_dir():
        raise UsageError(f"{output} is a directory: name a file in it")
    if output.exists() and not output.is_file():
        raise UsageError(f"{output} is no plain file: name one{otherwise}")
    if not output.parent.is_dir():
        raise UsageError(f"there is no directory {output.parent}")


@contextlib.contextmanager
def _locked(environment: Environment, path: Path) -> Iterator[None]:
    """Keep two processes from writing the same output.

    Raises:
        UsageError: another one does.
    """
    from filelock import FileLock, Timeout

    from tieredllm.errors import UsageError

    folder = environment.places.cache / "batch"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):
            yield
    except Timeout:
        raise UsageError(f"another `tieredllm batch` is writing {path}") from None


@contextlib.contextmanager
def _opened(environment: Environment, source: str) -> Iterator[BinaryIO]:
    """Open the input so that it can be read twice; stdin is put on the disk first.

    Raises:
        UsageError: it is not there, or stdin is a terminal.
    """
    from tieredllm.errors import UsageError

    if source == "-":
        if not environment.is_piped_into or environment.stdin is None:
            raise UsageError("`-` is stdin, and nothing is piped in")
        with _spooled(environment.stdin.buffer) as copy:
            yield copy
        return
    try:
        file = Path(source).open("rb")  # noqa: SIM115 - no error of whoever reads it is caught here
    except FileNotFoundError:
        raise UsageError(f"there is no file {source}") from None
    except IsADirectoryError:
        raise UsageError(f"{source} is a directory") from None
    with file, contextlib.nullcontext(file) if file.seekable() else _spooled(file) as readable:
        yield readable


@contextlib.contextmanager
def _spooled(stream: BinaryIO) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        while data := stream.read(SPOOL_BYTES):
            file.write(data)
        yield file


@app.command("merge")
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to make.")],
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="Outputs of `batch`.")],
) -> None:
    """Put the outputs of shards together, in the input's order, each id once.

    Of two records of one id an answer wins over a failure, and a later one over an earlier one.
    """
    from tieredllm.batch.output import Index, places_in, rewrite
    from tieredllm.errors import UsageError
    from tieredllm.text import pluralize

    environment = current()
    if str(out) == "-":
        raise UsageError("OUT of `merge` is a file, and cannot be `-`: name one")
    _check_writable(out)
    with contextlib.ExitStack() as stack:
        index = Index()
        stack.callback(index.close)
        files = []
        for number, part in enumerate(parts):
            file = stack.enter_context(_opened(environment, str(part)))
            index.add_records(places_in(file, str(part)), number)
            files.append(file)
        count = 0

        def sources() -> Iterator[tuple[BinaryIO, int, int]]:
            nonlocal count
            for number, offset, length in index.best():
                count += 1
                yield files[number], offset, length

        rewrite(sources(), out)
        clashing = index.count_clashing()
    if clashing:
        environment.warn(
            f"tieredllm: {pluralize(clashing, 'id')} stood for different lines or prompts: of each "
            "the latest answer is kept (lines without an id have their number, in every file)"
        )
    environment.say(f"tieredllm: {pluralize(count, 'line')} in {out}")


@app.command("status")
def status(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="An output of `batch`.")],
    *,
    as_json: Json = False,
) -> None:
    """Show what is in an output: answers per tier, failures by kind, tokens."""
    from collections import Counter

    from tieredllm.batch.output import places_in
    from tieredllm.cli.output import print_json, print_table

    environment = current()
    tiers: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    tokens = end = 0
    with _opened(environment, str(out)) as file:
        for place in places_in(file, str(out)):
            end = place.offset + place.length
            record = place.record
            if record.error is not None:
                failures[record.error.code] += 1
                continue
            tiers[record.tieredllm.tier or ""] += 1
            body = (record.response or {}).get("body") or {}
            tokens += (body.get("usage") or {}).get("total_tokens") or 0
        torn = file.seek(0, 2) > end
    if as_json:
        found = {
            "answered": tiers.total(),
            "failed": failures.total(),
            "tiers": dict(tiers),
            "failures": dict(failures),
            "tokens": tokens,
            "torn": torn,
        }
        print_json(found, environment)
        return
    rows = [["answered", f"{tiers.total()}"]]
    rows += [[f"  by {tier}", f"{count}"] for tier, count in tiers.most_common()]
    rows += [["failed", f"{failures.total()}"]]
    rows += [[f"  with {kind}", f"{count}"] for kind, count in failures.most_common()]
    print_table(("what", "lines"), rows, environment)
    if torn:
        environment.say("tieredllm: its last line is torn: `batch` cuts it off and goes on")
