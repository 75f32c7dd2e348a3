#!/bin/sh
# openai 3.57.0 and httpx 0.28.1 (Python, run 2026-11): the errors that servers cause cannot be sent from one
# process to another. They pickle; unpickling raises TypeError, since the constructor wants keywords that
# an exception does not hand on by itself. A `ProcessPoolExecutor` reads results where it cannot tell whose
# they were: one 429 in one worker makes it give up the whole pool, and every question in flight, answered
# or not, is a BrokenProcessPool, "a process was terminated abruptly", with the 429 nowhere to be seen.
# anthropic 2.14.0, whose errors look the same, does it right: who asked gets the 429, with its response.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    openai==3.57.0 anthropic==2.14.0 httpx==0.28.1
cat > "$folder/finding.py" <<'PYTHON'
import json
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import httpx
import openai

MESSAGES = [{"role": "user", "content": "Hello."}]


class Busy(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.dumps({"error": {"type": "rate_limit_error", "message": "Slow down."}}).encode()
        self.send_response(429)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def ask(package, port, number):
    """Be refused as number 1; answer as any other, a little later."""
    if number != 1:
        time.sleep(0.5)
        return "answered"
    url = f"http://127.0.0.1:{port}"
    if package == "openai":
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        return client.chat.completions.create(model="m", messages=MESSAGES)
    if package == "anthropic":
        client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
        return client.messages.create(model="m", max_tokens=9, messages=MESSAGES)
    return httpx.post(url).raise_for_status()


def outcome(future):
    error = future.exception()
    return type(error).__name__ if error else future.result()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen = {}
    for package in ("openai", "httpx", "anthropic"):
        with ProcessPoolExecutor(4) as pool:
            futures = [pool.submit(ask, package, server.server_port, number) for number in range(4)]
            seen[package] = [outcome(future) for future in futures]
        print(f"{package}: {seen[package]}")
    lost = ["BrokenProcessPool"] * 4
    changed = seen != {
        "openai": lost,
        "httpx": lost,
        "anthropic": ["answered", "RateLimitError", "answered", "answered"],
    }
    print("changed" if changed else "as written")
    raise SystemExit(changed)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py" 2> "$folder/log" || { tail -n 3 "$folder/log"; exit 1; }
