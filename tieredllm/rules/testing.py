"""Run the tests that a rule file brings along."""

from __future__ import annotations

from tieredllm.errors import Mistake
from tieredllm.rules.matching import Matcher
from tieredllm.text import printable_line

__all__ = ["failed_tests"]

SHOWN_CHARACTERS = 80


def failed_tests(matcher: Matcher) -> list[Mistake]:
    """Match the queries of a file's own tests.

    Returns:
        What failed, each at the place of its query, with the reason for the intent it got.
    """
    failed = []
    for test in matcher.rules.tests:
        finding = matcher.match(test.query)
        query = printable_line(test.query, SHOWN_CHARACTERS)
        if finding.intent != test.intent:
            message = f"`{query}` is {finding.intent}, not {test.intent}: {finding.why}"
        elif test.lang is not None and finding.lang != test.lang:
            message = f"`{query}` is taken for {finding.lang}, not {test.lang}: {finding.why}"
        else:
            continue
        failed.append(test.place.mistake(message))
    return failed
