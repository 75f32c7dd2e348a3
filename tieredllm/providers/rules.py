"""The last tier: fixed answers from rules. It cannot fail."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from tieredllm.errors import ProfileError
from tieredllm.providers.base import Call, Capabilities, Chunk, Delta, Finish, ProbeResult
from tieredllm.providers.static import StaticBackend
from tieredllm.rules.ref_code import last_words, ref_code
from tieredllm.types import Prompt

if TYPE_CHECKING:
    from tieredllm.rules.answer import RuleAnswer
    from tieredllm.rules.match import Matcher

__all__ = ["RulesBackend"]

BUILTIN = "builtin"


class RulesBackend(StaticBackend):
    """Answer from rules, without a network or a model.

    A rule file is read when it is first needed. If it cannot be used then, the built-in rules
    answer in its place, and if they cannot be used either, one fixed sentence does.

    Args:
        rules: `builtin`, or the path of a rule file.
        variables: what answers may name, such as `support_contact`.
    """

    provider = model = "rules"
    capabilities = Capabilities(tools=True, images=True, documents=True)
    """All but a schema: its answers say what they are, whatever is asked."""

    def __init__(self, *, rules: str = BUILTIN, variables: Mapping[str, str] | None = None) -> None:
        self._rules = rules
        self._variables = dict(variables or {})
        self._matchers: dict[str, Matcher] = {}

    @property
    def identity(self) -> str:
        """Name the rule file."""
        return f"rules|{self._rules}"

    def prepare(self) -> None:
        """Read the rules, so that no file has to be found when everything else has failed."""
        for source in dict.fromkeys((self._rules, BUILTIN)):
            with suppress(Exception):  # `answer` goes on to the next
                self._answer(source, "hello", "0" * 32)

    async def answer(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Yield the whole answer at once, and its end; never raise."""
        query = _query(call.prompt)
        for source in dict.fromkeys((self._rules, BUILTIN)):
            try:
                answer = self._answer(source, query, call.request_id)
            except Exception:  # noqa: BLE001, S112 - the last tier must answer whatever is wrong with a file
                continue
            yield Delta(answer.text)
            yield Finish(reason="stop", intent=answer.intent, ref_code=answer.ref_code)
            return
        code = ref_code(call.request_id)
        yield Delta(last_words(code))
        yield Finish(reason="stop", intent="general", ref_code=code)

    def _answer(self, source: str, query: str, request_id: str) -> RuleAnswer:
        from tieredllm.rules.answer import answer

        matcher = self._matcher(source)
        return answer(matcher, query, variables=self._variables, request_id=request_id)

    def _matcher(self, source: str) -> Matcher:
        if source not in self._matchers:
            from tieredllm.rules.load import load_rules
            from tieredllm.rules.match import Matcher

            # A profile's rule files have been checked; compiling them all again would take long.
            self._matchers[source] = Matcher(load_rules(source, check_patterns=False))
        return self._matchers[source]

    async def probe(self, *, deep: bool = False) -> ProbeResult:  # noqa: ARG002
        """Return whether the rule file can be used; the tier answers in any case."""
        from tieredllm.rules.load import load_rules

        began = time.perf_counter()
        error = None
        try:
            load_rules(self._rules)
        except ProfileError as exc:
            error = f"the built-in rules answer: {exc.mistakes[0]}"
        return ProbeResult(ok=True, latency_ms=(time.perf_counter() - began) * 1000, error=error)


def _query(prompt: Prompt) -> str:
    """Return what the user asks: the question, or the text that speaks for itself."""
    if prompt.question.strip() or not prompt.attachments:
        return prompt.question
    return prompt.attachments[0].text
