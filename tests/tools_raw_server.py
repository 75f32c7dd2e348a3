"""Play an MCP server in raw JSON-RPC over stdio, as odd as real ones are.

Run as a program: `python tools_raw_server.py FOLDER [BEHAVIOUR…]`. Each start adds a line to
`FOLDER/starts`, each message that comes in its method to `FOLDER/heard`. Behaviours:

- `dies_of_discover`, `silent_to_discover`: what servers older than 2026-07-28 do when asked
- `mute`: never answers anything
- `banner`: a line without its end, before the first answer
- `tells`: instructions for models, of 3,000 characters
- `only=A,B`: tools of these names
- `noisy`: two lines on stderr
- `odd_list`: entries that are none, beside good ones
- `forgets_types`: lists where objects are wanted
- `slow=S`: seconds before the first message is read
- `writes` (a file in FOLDER): no tool is read-only any more
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

FOLDER = Path(sys.argv[1])
HOW = dict(word.partition("=")[::2] for word in sys.argv[2:])
OBJECT = {"type": "object", "properties": {}}
READS = not (FOLDER / "writes").exists()
calls: list[str] = []


def note(file: str, text: str) -> None:
    with (FOLDER / file).open("a") as stream:
        stream.write(text + "\n")


def write(raw: bytes) -> None:
    os.write(1, raw)


def send(message: dict) -> None:
    raw = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
    while raw:
        raw = raw[os.write(1, raw) :]


def tools() -> list:
    names = [*CALLS, "say", "added"] if (FOLDER / "added").exists() else [*CALLS, "say"]
    names = HOW["only"].split(",") if "only" in HOW else names
    good = [
        {
            "name": name,
            "inputSchema": OBJECT,
            "annotations": {"readOnlyHint": name == "state" and READS},
        }
        for name in names
    ]
    if "odd_list" not in HOW:
        return good
    return [
        *good,
        None,
        {"description": "no name"},
        {"name": "no_schema"},
        {"name": "not_an_object", "inputSchema": {}},
        {"name": "odd_hint", "inputSchema": OBJECT, "annotations": {"readOnlyHint": "yes"}},
        {
            "name": "both",
            "inputSchema": OBJECT,
            "annotations": {"readOnlyHint": True, "destructiveHint": True},
        },
        {"name": "task", "inputSchema": OBJECT, "execution": {"taskSupport": "required"}},
        {"name": "huge", "inputSchema": {**OBJECT, "description": "x" * 70_000}},
    ]


def text(*texts: str, **more) -> dict:
    return {"content": [{"type": "text", "text": it} for it in texts], **more}


def call(name: str, arguments: dict) -> dict | None:
    """Give what answers a call: a result, or an error."""
    calls.append(name)
    if name == "say":
        return raw(f"{arguments['line']}".replace("ID", str(request_id)).encode())
    return CALLS[name]() if name in CALLS else {"result": text("added")}


def raw(line: bytes) -> None:
    write(line + b"\n")


def limited() -> dict:
    return {"error": {"code": -32000, "message": "GitHub API rate limit exceeded"}}


def adds() -> dict:
    (FOLDER / "added").touch()
    send({"method": "notifications/tools/list_changed"})
    return {"result": text("added a tool")}


def works() -> dict:
    for step in range(6):
        time.sleep(0.5)
        told = {"progressToken": progress_token, "progress": step, "total": 6}
        send({"method": "notifications/progress", "params": told})
    return {"result": text("done")}


def babbles() -> dict:
    for told in ({"progressToken": progress_token, "progress": "some"}, {}, {"level": "loud"}):
        send({"method": "notifications/progress", "params": told})
        send({"method": "notifications/message", "params": told})
    return {"result": text("done")}


CALLS = {
    "babbles": babbles,
    "state": lambda: {"result": text(f"call {len(calls)} of {os.getpid()}")},
    "limited": limited,
    "refused": lambda: {"error": {"code": -32600, "message": "Elicitation not supported"}},
    "internal": lambda: {
        "error": {"code": -32603, "message": "Internal error", "data": {"reason": "locked"}}
    },
    "summary": lambda: {"result": text("2 rows found", structuredContent={"rows": [1, 2]})},
    "only_data": lambda: {"result": {"structuredContent": {"rows": [1, 2]}}},
    "video": lambda: {
        "result": {
            "content": [
                {"type": "text", "text": "see"},
                {"type": "video", "mimeType": "video/mp4", "data": ""},
            ]
        }
    },
    "null": lambda: {"result": None},
    "not_utf8": lambda: raw(
        b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"a\xffb"}]}}'
        % request_id
    ),
    "deep": lambda: raw(
        b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (request_id, b"[" * 3000 + b"]" * 3000)
    ),
    "half": lambda: raw(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[' % request_id),
    "big": lambda: {"result": text("x" * (33 * 1024 * 1024))},
    "adds": adds,
    "links": lambda: {
        "result": {"content": [{"type": "resource_link", "uri": "raw://log", "name": "log"}]}
    },
    "works": works,
    "dies": lambda: sys.exit("Error: out of memory"),
    "quits": sys.exit,
}
LOOSE = {
    "initialize": {"protocolVersion": "2025-11-25", "capabilities": [], "_meta": "x"},
    "tools/list": {"tools": [{"name": "state", "inputSchema": []}], "_meta": "x"},
}
"""What servers send that have one name for an empty object and an empty list."""
request_id = 0
progress_token = None


def main() -> None:
    global request_id, progress_token
    note("starts", str(os.getpid()))
    time.sleep(float(HOW.get("slow") or 0))
    if "noisy" in HOW:
        print("reading the settings\nready", file=sys.stderr, flush=True)
    if "banner" in HOW:
        write(b"Server is up ")
    for line in sys.stdin:
        message = json.loads(line)
        about = (message.get("params") or {}).get("_meta", {})
        method, request_id = message["method"], message.get("id")
        [progress_token] = [about.get("progressToken")]
        note("heard", method)
        if "forgets_types" in HOW and request_id is not None and method in LOOSE:
            send({"id": request_id, "result": LOOSE[method]})
            continue
        if "mute" in HOW or request_id is None:
            continue
        answer: dict | None
        if method == "server/discover":
            if "dies_of_discover" in HOW:
                sys.exit("expected initialize request")
            if "silent_to_discover" in HOW:
                continue
            answer = {"error": {"code": -32601, "message": "Method not found"}}
        elif method == "initialize":
            answer = {
                "result": {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {"listChanged": True}},
                    "serverInfo": {"name": "raw", "version": "1"},
                    "instructions": f"Call state first.\n{'x' * 3000}" if "tells" in HOW else None,
                }
            }
        elif method == "tools/list":
            answer = {"result": {"tools": tools()}}
        elif method == "resources/read":
            uri = message["params"]["uri"]
            answer = {"result": {"contents": [{"uri": uri, "text": f"all of {uri}"}]}}
        elif method == "tools/call":
            answer = call(message["params"]["name"], message["params"]["arguments"])
        else:
            answer = {"error": {"code": -32601, "message": "Method not found"}}
        if answer is not None:
            send({"id": request_id, **answer})


if __name__ == "__main__":
    main()
