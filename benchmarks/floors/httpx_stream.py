"""Stream an answer with httpx alone: the floor that `ask` is measured against."""

import json
import sys

import httpx

body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
with httpx.stream("POST", sys.argv[1] + "/chat/completions", json=body) as response:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                print(choice["delta"].get("content") or "", end="")
print()
