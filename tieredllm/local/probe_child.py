"""Load a model file and decode one token, in a process of its own, and say on stdout how it went.

Run as `python -m tieredllm.local.probe_child FILE`. Native code that crashes on a file takes this
process with it, not the one that has an answer to give.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from tieredllm.errors import FallbackTriggerError
from tieredllm.profile.schema import Params
from tieredllm.types import Message

__all__ = ["main"]

TRIAL_CONTEXT_TOKENS = 512
TRIAL_PROMPT_TOKENS = 32


def main(path: Path) -> None:
    """Try a file; print `{"reason": null, "bad_file": false}`, or what is wrong with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reason: str | None = None
    bad_file = False
    try:
        _try(path)
    except FallbackTriggerError as exc:
        from tieredllm.local.model import BadFileError

        reason, bad_file = exc.message, isinstance(exc, BadFileError)
    print(json.dumps({"reason": reason, "bad_file": bad_file}))


def _try(path: Path) -> None:
    from tieredllm.local.ladder import LoadSettings
    from tieredllm.local.llama_bindings import Flag
    from tieredllm.local.model import LoadedModel
    from tieredllm.local.template import ChatFormat

    model = LoadedModel(
        path,
        n_ctx=TRIAL_CONTEXT_TOKENS,
        settings=LoadSettings(),
        stop=Flag(),
        go_on=lambda: True,
    )
    prompt = ChatFormat(model.vocabulary).tokens([Message("user", "Hello")])
    model.evaluate(prompt[:TRIAL_PROMPT_TOKENS])
    list(model.sample(1, Params(temperature=0)))
    model.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
