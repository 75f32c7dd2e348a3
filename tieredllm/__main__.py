"""Run the command line: `python -m tieredllm`, and the `tieredllm` script."""

from __future__ import annotations

__all__ = ["main"]

COLLECT_AFTER = 50_000
"""Objects made, and not freed, before cycles among them are looked for: CPython's 700 would look a
hundred times during start-up, which makes objects that stay. mypy does the same (build.py)."""


def main() -> None:
    """Run the command line and exit with its code."""
    import sys

    try:
        code = _run(sys.argv[1:])
    except KeyboardInterrupt:  # while what the command needs was still being loaded
        code = 130
    sys.exit(code)


def _run(args: list[str]) -> int:
    import gc

    gc.set_threshold(COLLECT_AFTER, 20, 20)
    from tieredllm.signals import end_on_signals

    end_on_signals()
    from tieredllm.cli.main import run

    code = run(args)
    # The interpreter's end collects cycles among all modules, a fifth of a short command's time,
    # only to give the memory back. What must end well was closed, and stdout flushed.
    gc.freeze()
    return code


if __name__ == "__main__":
    main()
