"""What the tests of a chat share: a server that talks, and answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cli_support import answering, served
from wire_support import Connection, Play, RawServer, response

from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.types import Answer, Usage

PROMPT = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
"""What stands before what is typed."""

FAILURE = ErrorInfo(kind=ErrorKind.TIMEOUT, message="no token within 10 s")


def answer(request_id="a1", *, text="Fine.", tier="primary", **fields) -> Answer:
    defaults = {
        "fallback_level": 0,
        "fallback_used": False,
        "provider": "openai",
        "model_used": "m",
        "latency_ms": 1500.0,
        "first_token_ms": 10.0,
        "finish_reason": "stop",
        "truncated": False,
        "usage": Usage(prompt_tokens=10, completion_tokens=1000),
        "original_error": None,
    }
    return Answer(request_id=request_id, text=text, tier=tier, **(defaults | fields))


def asked(server: RawServer) -> str:
    """Give the last message of the last request."""
    return str(server.requests[-1].json["messages"][-1]["content"])


@contextlib.contextmanager
def talking(replies: dict[str, bytes | Play] | None = None) -> Iterator[RawServer]:
    """Run a server that repeats what it is asked, or plays a reply of its own to some words.

    Args:
        replies: what to play, by a word of the question; may be changed on the way.
    """
    replies = {} if replies is None else replies
    box: list[RawServer] = []

    async def play(connection: Connection) -> None:
        if box[0].requests[-1].method == "GET":  # a probe wants the list of models
            await connection.send(response(200, {"object": "list", "data": [{"id": "m-1"}]}))
            return
        question = asked(box[0])
        for word, reply in replies.items():
            if word in question:
                if isinstance(reply, bytes):
                    await connection.send(reply)
                else:
                    await reply(connection)
                return
        await connection.send(answering(f"You said: {question}"))

    with served(play) as server:
        box.append(server)
        yield server
