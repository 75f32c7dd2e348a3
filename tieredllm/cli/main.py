"""Run one command line and map whatever happens to an exit code; no traceback reaches a user."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from tieredllm.cli.app import app
from tieredllm.cli.environment import Environment, discard, use
from tieredllm.cli.exit_codes import ExitCode

__all__ = ["run"]


def run(args: Sequence[str], environment: Environment | None = None) -> int:
    """Run a command line.

    Args:
        args: the words after the program's name.
        environment: the surroundings; the process's own when None.

    Returns:
        The exit code. `TIEREDLLM_DEBUG=1` shows the traceback of an error before its message.
    """
    _replace_unprintable()
    environment = environment or Environment()
    use(environment)
    code = _guarded(args, environment)
    return _flushed(environment, code)


def _guarded(args: Sequence[str], environment: Environment) -> int:
    try:
        result = app(args=list(args), prog_name="tieredllm", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else ExitCode.FAILURE
    except BrokenPipeError:
        discard(sys.stdout)
        return ExitCode.FAILURE
    except Exception as exc:  # noqa: BLE001 - the last line of defence
        _debug(environment)
        message, code = _explained(exc, args)
        environment.warn(message)
        return code
    return result if isinstance(result, int) else ExitCode.OK


def _explained(exc: Exception, args: Sequence[str]) -> tuple[str, int]:
    """Say in one line what went wrong (a line each for a profile's mistakes), and the exit code."""
    if isinstance(exc, typer.TyperException):
        return _usage_message(exc, args), exc.exit_code
    from tieredllm.errors import ProfileError, TieredLLMError, UsageError

    if isinstance(exc, ProfileError):
        return str(exc), ExitCode.USAGE
    if isinstance(exc, TieredLLMError):
        usage = isinstance(exc, UsageError)
        return f"tieredllm: {exc}", ExitCode.USAGE if usage else ExitCode.FAILURE
    if isinstance(exc, RuntimeError) and "home directory" in str(exc):  # pathlib's own words
        message = "there is no home directory that `~` could mean: set HOME, or write the path out"
        return f"tieredllm: {message}", ExitCode.USAGE
    if isinstance(exc, OSError):
        where = f" ({exc.filename})" if exc.filename else ""
        return f"tieredllm: {exc.strerror or exc}{where}", ExitCode.FAILURE
    return (
        f"tieredllm: unexpected {type(exc).__name__}: {exc} "
        "(TIEREDLLM_DEBUG=1 shows where; please report it)"
    ), ExitCode.FAILURE


def _usage_message(exc: typer.TyperException, args: Sequence[str]) -> str:
    context = getattr(exc, "ctx", None)
    command = "tieredllm" if context is None else context.command_path
    message = exc.format_message().rstrip(".")
    if message.startswith("Usage: "):
        return message  # a group without a command: its help
    option = getattr(exc, "option_name", None)
    if option and any(" " in arg for arg in args if arg.startswith(option)):
        hint = f'a question that begins with a dash comes after `--`: {command} -- "{option}..."'
    else:
        hint = f"see `{command} --help`"
    return f"tieredllm: {message} ({hint})"


def _debug(environment: Environment) -> None:
    if environment.env.get("TIEREDLLM_DEBUG"):
        import traceback

        traceback.print_exc(file=environment.stderr)


def _flushed(environment: Environment, code: int) -> int:
    """Flush stdout while an error can still be told: a full disk shows here."""
    try:
        environment.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
        return ExitCode.FAILURE
    except OSError as exc:
        environment.warn(f"tieredllm: cannot write the output: {exc.strerror or exc}")
        discard(sys.stdout)
        return code or ExitCode.FAILURE
    except ValueError:
        return code
    return code


def _replace_unprintable() -> None:
    """Let a character the terminal's encoding lacks come out as `?` instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
