"""Answer a query from rules."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

import msgspec

from tieredllm.rules.match import Finding, Matcher
from tieredllm.rules.ref_code import last_words, ref_code
from tieredllm.rules.schema import Intent, Language, ResponseText, Rules
from tieredllm.rules.template import OWN_VARIABLES, fill
from tieredllm.text import printable_line

__all__ = ["RuleAnswer", "answer"]

NOTICE = "(A limited answer from fixed rules: no language model answered. Reference: {ref_code}.)"
"""Added when no file has a notice."""

MAX_VARIABLE = 1000
"""The most characters of a profile's variable that an answer prints."""


class RuleAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer from rules."""

    text: str
    intent: str
    """What was understood; the answer may be the default's when nothing was left to say."""
    lang: str
    ref_code: str
    finding: Finding


def answer(
    matcher: Matcher,
    query: str,
    *,
    variables: Mapping[str, str],
    request_id: str,
    finding: Finding | None = None,
) -> RuleAnswer:
    """Answer a query.

    Args:
        matcher: the rules.
        query: what the user asked; any text.
        variables: what answers may name, from the profile; blank ones count as not set.
        request_id: what the reference code is derived from.
        finding: what was found for this query before, if it was.

    Returns:
        The answer: always the same for the same query, rules, variables and request.
    """
    finding = finding or matcher.match(query)
    code = ref_code(request_id)
    values = _values(finding, variables, code)
    body = next(_bodies(matcher.rules, finding, values), "")
    notice = fill(_notice(matcher.rules, finding.lang), {"ref_code": code})
    return RuleAnswer(
        text=f"{body}\n\n{notice}" if body else last_words(code),
        intent=finding.intent,
        lang=finding.lang,
        ref_code=code,
        finding=finding,
    )


def _values(finding: Finding, variables: Mapping[str, str], code: str) -> dict[str, str]:
    named = {name: value for name, value in variables.items() if "." not in name}
    values = {name: printable_line(value, MAX_VARIABLE) for name, value in named.items()}
    if finding.winner is not None:
        values.update((f"match.{k}", value) for k, value in finding.winner.captures.items())
    values.update(dict.fromkeys(OWN_VARIABLES, code))
    return {name: value for name, value in values.items() if value}


def _bodies(rules: Rules, finding: Finding, values: Mapping[str, str]) -> Iterator[str]:
    """Return what can be said, the best first: the intent's own words, then the defaults'."""
    own = [one for one in rules.languages if one.lang == finding.lang]
    others = [one for one in rules.languages if one.lang != finding.lang]
    number = zlib.crc32(finding.query.casefold().encode())
    for intent in _intents(own, others, finding.intent):
        for responses in (intent.responses, intent.otherwise):
            for response in _rotated(responses, number):
                text = fill(response, values)
                if text:
                    yield text


def _intents(own: list[Language], others: list[Language], name: str) -> Iterator[Intent]:
    for language in (*own, *others):
        for wanted in (name if language in own else None, language.default):
            intent = language.intent(wanted) if wanted is not None else None
            if intent is not None:
                yield intent


def _rotated(responses: tuple[ResponseText, ...], number: int) -> Iterator[ResponseText]:
    """Return the response that a query's number chooses, then those after it, around the end."""
    for turn in range(len(responses)):
        yield responses[(number + turn) % len(responses)]


def _notice(rules: Rules, lang: str) -> str:
    notices = {one.lang: one.notice for one in reversed(rules.languages) if one.notice}
    return notices.get(lang) or next(reversed(notices.values()), NOTICE)
