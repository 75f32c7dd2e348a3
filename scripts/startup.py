"""Draw where the time of a command goes, as docs/startup.svg: `make picture`.

The times are those of imports, by `python -X importtime`, of an `ask` that a local server answers
at once; what is left of the process's time is the work itself.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.servers import running  # noqa: E402

RUNS = 5
PARTS = {
    "httpx": {"httpx", "httpcore", "h11", "anyio", "idna", "certifi", "ssl", "http", "email"},
    "asyncio": {"asyncio", "concurrent", "selectors", "signal", "socket"},
    "typer": {"typer", "annotated_doc", "inspect"},
    "profile (yaml, msgspec)": {"yaml", "_yaml", "msgspec", "typing_extensions", "platformdirs"},
    "tieredllm": {"tieredllm"},
}


def main() -> None:
    """Measure and write the picture."""
    rows = sorted(measured().items(), key=lambda item: -item[1])
    total = sum(ms for _, ms in rows)
    console = Console(record=True, width=84, file=io.StringIO())
    console.print(Text(f"tieredllm ask, an instant answer: {total:.0f} ms in all", style="bold"))
    for name, ms in rows:
        bar = "█" * max(1, round(44 * ms / rows[0][1]))
        console.print(Text.assemble(f"{name:>26} ", (bar, "cyan"), f" {ms:.0f} ms"))
    (ROOT / "docs" / "startup.svg").write_text(
        console.export_svg(title="where the time goes"), encoding="utf-8"
    )
    print("wrote docs/startup.svg")


def measured() -> dict[str, float]:
    """Give milliseconds by part, the medians' share of the fastest whole run."""
    with running("instant") as url, tempfile.TemporaryDirectory() as home:
        profile = Path(home) / "p.yaml"
        profile.write_text(
            "name: p\ntiers:\n  - {name: a, provider: openai, model: m, "
            f"api_key_env: null, base_url: '{url}'}}\n"
        )
        env = dict(os.environ) | {"TIEREDLLM_HOME": home}
        command = ["-m", "tieredllm", "-p", str(profile), "ask", "hello"]
        whole = []
        imports: list[dict[str, float]] = []
        for _ in range(RUNS + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], env=env, capture_output=True, check=True)
            whole.append((time.perf_counter() - started) * 1000)
            done = subprocess.run(
                [sys.executable, "-X", "importtime", *command],
                env=env,
                capture_output=True,
                text=True,
                check=True,
            )
            imports.append(by_part(done.stderr))
    best = min(imports[1:], key=lambda times: sum(times.values()))
    parts = dict(best)
    parts["the work: connect, ask, remember"] = max(0.0, min(whole[1:]) - sum(best.values()))
    return parts


def by_part(report: str) -> dict[str, float]:
    """Sum the imports' own times by part, in milliseconds."""
    times: defaultdict[str, float] = defaultdict(float)
    for line in report.splitlines():
        fields = line.removeprefix("import time:").split("|")
        if len(fields) == 3 and fields[0].strip().isdigit():
            top = fields[2].strip().split(".")[0]
            part = next((name for name, modules in PARTS.items() if top in modules), "Python")
            times[part] += int(fields[0]) / 1000
    return times


if __name__ == "__main__":
    main()
