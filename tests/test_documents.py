"""The documents: what they link to is there, and what they name exists."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "models/README.md",
]
BASES = (ROOT, ROOT / "tieredllm", Path(sysconfig.get_path("purelib")))
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return the headings of a document as links name them."""
    headings = re.findall(
        r"(?m)^#+ (.+)$", CODE.sub(lambda code: code[0].strip("`"), document.read_text("utf-8"))
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    """Every link to a file or a heading of this repository finds it."""
    broken = []
    for link in LINK.findall(CODE.sub("", document.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_modules_exist(document):
    """A file that a document names in code is there: of ours, or of an installed package."""
    if document.name == "CHANGELOG.md":
        return  # tells of what once was
    named = re.findall(
        r"`((?:[a-z_]+/)+[a-z_*]+\.(?:py|yaml|toml|in|txt|sh))`", document.read_text("utf-8")
    )

    missing = [name for name in named if not any(any(base.glob(name)) for base in BASES)]
    assert missing == []


def test_no_merge_was_left_open():
    """No document holds the marks that an unfinished merge leaves."""
    marked = [
        path.name
        for path in DOCUMENTS
        if re.search(r"(?m)^(<{7}|={7}|>{7})( |$)", path.read_text("utf-8"))
    ]
    assert marked == []


def test_every_decision_is_listed():
    """The list of decisions has each record, once."""
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[^)]+)\)", (folder / "README.md").read_text("utf-8"))

    assert listed == sorted(path.name for path in folder.glob("0*.md"))


def test_hooks_run_what_is_installed():
    """Each hook before a commit is one of ours, run from the environment that make sets up."""
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))

    assert [repo["repo"] for repo in settings["repos"]] == ["local"]
    for hook in settings["repos"][0]["hooks"]:
        assert (hook["language"], hook["entry"].split()[0].rpartition("/")[0]) == (
            "system",
            ".venv/bin",
        )
