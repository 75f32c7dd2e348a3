r"""Find out which tool's declaration a server rejects.

What vendors say, as told in public threads:

- OpenAI: "Invalid schema for function 'x': In context=(), object schema missing properties." with
  `param: "tools[3].function.parameters"` (openai/openai-agents-python#449)
- Anthropic: "tools.27.custom.input_schema.properties: Property keys should match pattern …"
  (twilio-labs/mcp#42), "tools.0.custom.input_schema: input_schema does not support oneOf, allOf, or
  anyOf at the top level" (anthropics/claude-code#40075)
- Google: "Invalid JSON payload received. Unknown name \"$schema\" at
  'tools[0].function_declarations[3].parameters': Cannot find field."; "reference to undefined
  schema at properties.target.anyOf.1" (google-gemini/gemini-cli#13326); "Unable to submit request
  because `x` functionDeclaration `parameters.a.b` schema didn't specify the schema type field"
  (google-gemini/gemini-cli#2282)
- llama.cpp's server: "JSON schema conversion failed: …", of whichever tool
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tieredllm.providers.errors.body import ErrorBody

__all__ = ["faulty_tool", "is_about_a_tool"]

_DECLARATION = re.compile(r"(?i)function_?declarations?(?:\[|\.)(\d{1,6})")
_PLACE = re.compile(r"\btools(?:\[|\.)(\d{1,6})")
_NAMED = re.compile(
    r"(?i)\b(?:function|tool)s?:?\s+(?:name\s+)?['\"`]([A-Za-z0-9_.-]{1,64})['\"`]"
    r"|['\"`]([A-Za-z0-9_.-]{1,64})['\"`]\s+function"
)
_SCHEMA = re.compile(
    r"(?i)input_?schema|function_?declarations?\b.{0,40}\b(?:parameters|schema|name)\b"
    r"|invalid schema for (?:function|tool)|parametersJsonSchema|^tools: |'tools': array too long"
    r"|\bschemas?\b|\$ref\b|\b(?:function|tool) (?:parameters|declarations?)\b"
)
_OF_THE_ANSWER = re.compile(
    r"(?i)response_?(?:format|json|schema)|text\.format|output_(?:config|format)"
)
"""An error about the schema that an answer is held to."""


def is_about_a_tool(error: ErrorBody) -> bool:
    """Return whether an error is about how some tool is declared, not about tools as such."""
    said = _said(error)
    if any(pattern.search(said) for pattern in (_DECLARATION, _PLACE, _NAMED)):
        return True
    return _SCHEMA.search(said) is not None and _OF_THE_ANSWER.search(said) is None


def faulty_tool(error: ErrorBody, names: Sequence[str]) -> str | None:
    """Return the tool an error is about; None when it cannot be told.

    Args:
        error: what the server says.
        names: the tools of the request, in their order.
    """
    said = _said(error)
    for pair in _NAMED.findall(said):
        for name in pair:
            if name in names:
                return str(name)
    # Google counts the declarations within its one `tools[0]`.
    for pattern in (_DECLARATION, _PLACE):
        found = pattern.search(said)
        if found:
            place = int(found[1])
            return names[place] if place < len(names) else None
    # A name that is no word of English is known without quotes as well.
    bare = [it for it in names if not it.isalpha() and it in re.findall(r"[A-Za-z0-9_-]+", said)]
    return bare[0] if len(bare) == 1 else None


def _said(error: ErrorBody) -> str:
    return f"{error.param or ''} {error.message[:2000]}".strip()
