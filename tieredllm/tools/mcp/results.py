"""Turn what an MCP server sends into what a model gets."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock

__all__ = ["MAX_NAME", "prefix", "text_of", "wire_name"]

MAX_NAME = 64
"""The longest name of a tool that all vendors take (OpenAI's limit)."""

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


def prefix(server: str) -> str:
    """Give what the names of all tools of a server begin with."""
    name = _UNFIT.sub("_", server)
    # Gemini takes no name that begins with a digit or a dash.
    return f"{name}__" if name[:1].isalpha() or name[:1] == "_" else f"_{name}__"


def wire_name(server: str, tool: str) -> str:
    """Give the name a model knows a server's tool by: `server__tool`.

    Characters that vendors reject become `_`. A name that was changed so that another one could
    become the same, or that is too long, ends in a hash of the whole.
    """
    name = prefix(server) + _UNFIT.sub("_", tool)
    if len(name) <= MAX_NAME and not _UNFIT.search(tool):
        return name
    digest = hashlib.sha256(f"{server}__{tool}".encode()).hexdigest()[:6]
    return f"{name[: MAX_NAME - 7]}_{digest}"


def text_of(result: CallToolResult) -> str:
    """Give a result's texts; what is no text is named.

    Structured content is given when there is no text beside it: servers are to send both
    (https://modelcontextprotocol.io/specification/2025-11-25/server/tools#structured-content).
    """
    texts = [_block(block) for block in result.content]
    if not texts and result.structured_content is not None:
        return msgspec.json.encode(result.structured_content).decode()
    return "\n\n".join(text for text in texts if text)


def _block(block: ContentBlock) -> str:
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
