"""Read what servers answer: their lists of tools and the results of calls, however odd.

The SDK validates whole answers: one tool without a schema, or one block of a kind it does not know,
and all the rest is lost. So answers are mended before they reach it (`mend`); what cannot be mended
is left out, or named in a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock
    from mcp_types import Tool as SdkTool

__all__ = ["RemoteTool", "describe", "mend", "text_of"]

_HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


_NEEDED: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "image": {"data": str, "mimeType": str},
    "audio": {"data": str, "mimeType": str},
    "resource": {"resource": dict},
    "resource_link": {"uri": str, "name": str},
}
"""What the blocks of a result are made of."""


class RemoteTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as its server describes it."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = {}
    read_only: bool | None = None
    """Whether the server says that it changes nothing, and does not say that it destroys."""
    needs_task: bool = False
    """Whether it runs as a task only, which this client does not offer."""


def describe(tool: SdkTool) -> RemoteTool:
    """Return what is used of a tool's description."""
    hints = tool.annotations
    read_only = hints.read_only_hint if hints is not None else None
    if hints is not None and hints.destructive_hint and read_only:
        read_only = None  # it says both
    execution = getattr(tool, "execution", None)
    return RemoteTool(
        name=tool.name,
        description=tool.description or tool.title or "",
        input_schema=tool.input_schema,
        read_only=read_only,
        needs_task=getattr(execution, "task_support", None) == "required",
    )


def mend(method: str, result: Any) -> dict[str, Any]:
    """Make a result one that the SDK takes.

    Args:
        method: what was asked for.
        result: the answer's `result`.
    """
    answer: dict[str, Any] = result if isinstance(result, dict) else {}
    if method == "tools/list":
        return _mended_list(answer)
    if method == "tools/call" and answer.get("resultType", "complete") == "complete":
        return _mended_call(answer)
    return answer


def _mended_list(result: dict[str, Any]) -> dict[str, Any]:
    listed = result.get("tools")
    tools = [_tool(it) for it in (listed if isinstance(listed, list) else [])]
    cursor = result.get("nextCursor")
    mended = {key: it for key, it in result.items() if key != "nextCursor"}
    mended["tools"] = [tool for tool in tools if tool is not None]
    if isinstance(cursor, str) and cursor:
        mended["nextCursor"] = cursor
    return mended


def _mended_call(result: dict[str, Any]) -> dict[str, Any]:
    content = result.get("content")
    blocks = content if isinstance(content, list) else [] if content is None else [content]
    told = [_mended_block(block) for block in blocks]
    mended = {**result, "content": told, "isError": result.get("isError") is True}
    structured = result.get("structuredContent")
    if not isinstance(structured, dict):
        # Before 2026-07-28 it is an object; whatever else it is goes on as text.
        mended.pop("structuredContent", None)
        texts = [it["text"] for it in told if it["type"] == "text"]
        if structured is not None and not _say(texts, structured):
            told.append({"type": "text", "text": msgspec.json.encode(structured).decode()})
    return mended


def _tool(value: Any) -> dict[str, Any] | None:
    """Return a tool's description with what is well-formed of it; None without a name."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    schema = value.get("inputSchema")
    mended = {
        "name": value["name"],
        "inputSchema": {**(schema if isinstance(schema, dict) else {}), "type": "object"},
    }
    for key in ("title", "description"):
        if isinstance(value.get(key), str):
            mended[key] = value[key]
    hints = value.get("annotations")
    if isinstance(hints, dict):
        mended["annotations"] = {
            key: hints[key] for key in _HINTS if isinstance(hints.get(key), bool)
        }
    execution = value.get("execution")
    support = execution.get("taskSupport") if isinstance(execution, dict) else None
    if support in ("forbidden", "optional", "required"):
        mended["execution"] = {"taskSupport": support}
    return mended


def _mended_block(block: Any) -> dict[str, Any]:
    """Return a block of a result; one of another kind, or without what its kind needs, as text."""
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, dict):
        return {"type": "text", "text": msgspec.json.encode(block).decode()}
    needed = _NEEDED.get(str(block.get("type")))
    if needed is not None and all(isinstance(block.get(key), it) for key, it in needed.items()):
        return {key: it for key, it in block.items() if key not in {"annotations", "icons"}}
    if isinstance(block.get("text"), str):
        return {"type": "text", "text": block["text"]}
    kind = block.get("mimeType")
    of_type = f" of type {kind}" if isinstance(kind, str) else ""
    return {"type": "text", "text": f"[{block.get('type', 'content')}{of_type}, not shown]"}


def text_of(result: CallToolResult) -> str:
    """Return a result's texts; what is no text is named.

    Structured content comes too, unless a text is that already: servers are to send both
    (https://modelcontextprotocol.io/specification/2025-11-25/server/tools#structured-content), but
    some send a summary beside the data.
    """
    texts = [text for block in result.content if (text := _text(block))]
    structured = result.structured_content
    if structured is not None and not _say(texts, structured):
        texts.append(msgspec.json.encode(structured).decode())
    return "\n\n".join(texts)


def _say(texts: list[str], structured: Any) -> bool:
    """Whether texts are the structured content, or the one value in it."""
    only = next(iter(structured.values())) if _has_one_value(structured) else structured
    if any(_is(text, structured) or _is(text, only) for text in texts):
        return True
    # FastMCP sends each item of a list as a text of its own.
    return (
        isinstance(only, list)
        and len(only) == len(texts)
        and all(_is(text, item) for text, item in zip(texts, only, strict=True))
    )


def _is(text: str, value: Any) -> bool:
    if text == value:
        return True
    try:
        decoded: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return bool(decoded == value)


def _has_one_value(structured: Any) -> bool:
    return isinstance(structured, dict) and len(structured) == 1


def _text(block: ContentBlock) -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource":
        text: Any = getattr(block.resource, "text", None)
        if isinstance(text, str):
            return text
        return f"[{block.resource.mime_type or 'binary'} resource {block.resource.uri}, not shown]"
    if block.type == "resource_link":
        return f"[{block.name}]({block.uri})"
    return f"[{block.type} of type {block.mime_type}, not shown]"
