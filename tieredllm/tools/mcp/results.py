"""Read what servers answer: who they are, their lists of tools, what calls gave, however odd.

The SDK validates whole answers: one tool without a schema, one block of a kind it does not know, a
`_meta` that is a text, and all the rest is lost. So it gets of each answer what is of use here in
the form that it takes (`mend`), and nothing besides; what has no such form goes on as text.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.lenient_json import NotJsonError, decode, encode
from tieredllm.tools.base import Output
from tieredllm.types import Image, media_type

if TYPE_CHECKING:
    from mcp_types import BlobResourceContents, ContentBlock, TextResourceContents
    from mcp_types import Tool as SdkTool

__all__ = ["RemoteTool", "describe", "mend", "output_of", "resource_of"]

_HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_CAPABILITIES = ("completions", "logging", "prompts", "resources", "tools")
_ENVELOPE = {"resultType": "complete", "cacheScope": "private", "ttlMs": 0}
"""What answers have from 2026-07-28 on; the SDK leaves it aside before."""
_ASIDE = frozenset({"_meta", "isError", "is_error", "resultType"})

MAX_IMAGES = 8
MAX_IMAGE_BYTES = 3_750_000
"""The largest image that is passed on: 5 MB as base64, Anthropic's limit (its guide to vision)."""


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
    if method == "tools/call":
        return _mended_call(result)
    answer: dict[str, Any] = result if isinstance(result, dict) else {}
    if method == "tools/list":
        return _mended_list(answer)
    if method == "resources/read":
        contents = [_resource(it) for it in _listed(answer.get("contents"))]
        return {**_ENVELOPE, "contents": [it for it in contents if it is not None]}
    if method in ("initialize", "server/discover"):
        return _mended_greeting(answer)
    return answer


def _mended_greeting(result: dict[str, Any]) -> dict[str, Any]:
    about = result.get("serverInfo")
    server = {"name": "unknown", "version": "0", **_texts(about, "name", "version")}
    offered = result.get("capabilities")
    capabilities = {
        # What has no fields is `[]` to servers in PHP.
        name: {key: it for key, it in _mapping(value).items() if isinstance(it, bool)}
        for name, value in _mapping(offered).items()
        if name in _CAPABILITIES and value is not None and value is not False
    }
    kept: dict[str, Any] = {
        key: result[key] for key in ("protocolVersion", "supportedVersions") if key in result
    }
    told = _texts(result, "instructions")
    return {**_ENVELOPE, **kept, **told, "serverInfo": server, "capabilities": capabilities}


def _mended_list(result: dict[str, Any]) -> dict[str, Any]:
    tools = [_tool(it) for it in _listed(result.get("tools"))]
    mended = {**_ENVELOPE, "tools": [tool for tool in tools if tool is not None]}
    if cursor := _texts(result, "nextCursor").get("nextCursor"):
        mended["nextCursor"] = cursor
    return mended


def _mended_call(result: Any) -> dict[str, Any]:
    """Return a call's result; structured content is among its texts.

    Servers are to send both
    (https://modelcontextprotocol.io/specification/2025-11-25/server/tools#structured-content), but
    some send a summary beside the data, or the data alone.
    """
    answer = _mapping(result)
    if answer.get("resultType") == "input_required":
        what = "the tool wants to ask the user something first, which is not supported"
        return {**_ENVELOPE, "content": [_text(what)], "isError": True}
    content, structured = answer.get("content"), answer.get("structuredContent")
    if not isinstance(result, dict):
        content = result
    elif "content" not in answer and structured is None:  # of no version: all that it says
        content = {key: it for key, it in answer.items() if key not in _ASIDE} or None
    given = content if isinstance(content, list) else [] if content is None else [content]
    blocks = [_block(it) for it in given]
    texts = [it["text"] for it in blocks if it["type"] == "text"]
    if structured is not None and not _say(texts, structured, given):
        blocks.append(_text(encode(structured)))
    failed = answer.get("isError", answer.get("is_error")) in (True, "true")
    return {**_ENVELOPE, "content": blocks, "isError": failed}


def _tool(value: Any) -> dict[str, Any] | None:
    """Return a tool's description with what is well-formed of it; None without a name."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    mended = {
        **_texts(value, "name", "title", "description"),
        "inputSchema": {**_mapping(value.get("inputSchema")), "type": "object"},
    }
    if hints := _mapping(value.get("annotations")):
        mended["annotations"] = {
            key: hints[key] for key in _HINTS if isinstance(hints.get(key), bool)
        }
    support = _mapping(value.get("execution")).get("taskSupport")
    if support in ("forbidden", "optional", "required"):
        mended["execution"] = {"taskSupport": support}
    return mended


def _block(value: Any) -> dict[str, Any]:
    """Return a block of a result; one of another kind, or without what its kind needs, as text."""
    if not isinstance(value, dict):
        return _text(value if isinstance(value, str) else encode(value))
    kind = value.get("type")
    found: dict[str, Any] | None = None
    if kind in ("image", "audio"):
        found = _texts(value, "data", "mimeType")
        found = found if len(found) == 2 else None
    elif kind == "resource":
        resource = _resource(value.get("resource"))
        found = None if resource is None else {"resource": resource}
    elif kind == "resource_link" and isinstance(value.get("uri"), str):
        found = {"name": value["uri"], **_texts(value, "uri", "name", "description", "mimeType")}
        if isinstance(value.get("size"), int):
            found["size"] = value["size"]
    if found is not None:
        return {"type": kind, **found}
    if isinstance(value.get("text"), str):
        return _text(value["text"])
    if kind == "text":
        return _text("" if value.get("text") is None else encode(value["text"]))
    if any(isinstance(value.get(key), str) for key in ("data", "blob")):
        mime_type = value.get("mimeType")
        of_type = f" of type {mime_type}" if isinstance(mime_type, str) else ""
        return _text(f"[{kind or 'content'}{of_type}, not shown]")
    return _text(encode(value))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _resource(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    content = _texts(value, "text") or _texts(value, "blob")
    return {"uri": "", **_texts(value, "uri", "mimeType"), **content} if content else None


def _texts(value: Any, *keys: str) -> dict[str, str]:
    """Return the texts among an object's values."""
    found = _mapping(value)
    return {key: found[key] for key in keys if isinstance(found.get(key), str)}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _say(texts: list[str], structured: Any, content: list[Any]) -> bool:
    """Whether texts are the structured content, or the one value in it."""
    only = structured
    if isinstance(structured, dict) and len(structured) == 1:
        [only] = structured.values()
    # server-filesystem has the blocks of its content there once more.
    if only == content or any(_is(text, structured) or _is(text, only) for text in texts):
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
        return bool(decode(text) == value)
    except NotJsonError:
        return False


def output_of(blocks: Sequence[ContentBlock]) -> Output:
    """Return what a result gives: its texts and images; what is neither is named."""
    texts: list[str] = []
    images: list[Image] = []
    links: list[str] = []
    for block in blocks:
        if block.type == "text":
            texts.append(block.text)
        elif block.type == "resource":
            texts.append(_resource_text(block.resource, images))
        elif block.type == "resource_link":
            about = [block.mime_type, None if block.size is None else _size(block.size)]
            facts = ", ".join(it for it in about if it)
            text = f"[{block.name}]({block.uri})" + (f" ({facts})" if facts else "")
            texts.append(f"{text}: {block.description}" if block.description else text)
            links.append(block.uri)
        else:
            texts.append(_named(block.type, block.mime_type, block.data, images))
    text = "\n\n".join(text for text in texts if text)
    return Output(text=text, parts=tuple(images), links=tuple(links))


def resource_of(contents: Sequence[TextResourceContents | BlobResourceContents]) -> Output:
    """Return what a resource holds."""
    images: list[Image] = []
    texts = [_resource_text(it, images) for it in contents]
    return Output(text="\n\n".join(texts), parts=tuple(images))


def _resource_text(
    resource: TextResourceContents | BlobResourceContents, images: list[Image]
) -> str:
    text: str | None = getattr(resource, "text", None)
    if text is not None:
        return text
    blob: str = getattr(resource, "blob", "")
    if (resource.mime_type or "").startswith("text/"):
        with suppress(ValueError):
            return base64.b64decode(blob).decode()
    return _named(f"resource {resource.uri}", resource.mime_type, blob, images)


def _named(kind: str, mime_type: str | None, data: str, images: list[Image]) -> str:
    """Return what stands in the text for data that is no text; an image goes to the images.

    What it is told by its first bytes: a vendor rejects a whole request for one image that is none.
    """
    try:
        raw = base64.b64decode(data)
    except ValueError:
        raw = b""
    known = media_type(raw)
    about = f"{kind} of type {known or mime_type or 'unknown'}, {_size(len(raw))}"
    if known is None or not known.startswith("image/"):
        return f"[{about}, not shown]"
    if len(raw) > MAX_IMAGE_BYTES or len(images) >= MAX_IMAGES:
        return f"[{about}, too large to be shown]"
    images.append(Image(media_type=known, data=raw))
    return f"[{about}]"


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1000 else f"{count / 1000:.0f} kB"
