#!/bin/sh
# mcp 2.3.0 (run 2026-11), `OAuthClientProvider` with a `TokenStorage`: within one process a token that
# has ended is renewed with its refresh token, nobody is asked; a new provider over the same storage
# sends the ended token, and on the 401 asks a person to log in again, with the refresh token at hand.
# `TokenStorage` keeps an `OAuthToken`, whose `expires_in` counts from a moment that nobody keeps, and
# `_initialize` takes a token without an end for one that never ends. (Upstream: python-sdk #1318, #3250.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0
cat > "$folder/finding.py" <<'PYTHON'
import asyncio
import time
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.shared.auth import OAuthClientMetadata

BASE = "https://server.example"
grants, bearers, asked = [], [], []
ends = {}


def serve(request):
    """Be the server of tools and the one that gives tokens for it."""
    path = request.url.path
    if path == "/mcp":
        bearers.append(request.headers.get("authorization"))
        if time.monotonic() > ends.get(bearers[-1], 0):  # none, or one that has ended
            return httpx2.Response(401)
        return httpx2.Response(200, text="hello")
    if path.startswith("/.well-known/oauth-protected-resource"):
        return httpx2.Response(
            200, json={"resource": f"{BASE}/mcp", "authorization_servers": [BASE]}
        )
    if path.startswith("/.well-known/oauth-authorization-server"):
        about = {"authorization_endpoint": f"{BASE}/authorize", "token_endpoint": f"{BASE}/token"}
        about |= {"issuer": BASE, "registration_endpoint": f"{BASE}/register"}
        about |= {"response_types_supported": ["code"], "code_challenge_methods_supported": ["S256"]}
        return httpx2.Response(200, json=about)
    if path == "/register":
        return httpx2.Response(201, json={**CLIENT, "client_id": "me"})
    if path == "/token":
        grants.append(parse_qs(request.content.decode())["grant_type"][0])
        ends[f"Bearer t{len(grants)}"] = time.monotonic() + 1
        token = {"access_token": f"t{len(grants)}", "token_type": "Bearer", "expires_in": 1}
        return httpx2.Response(200, json={**token, "refresh_token": "r"})
    return httpx2.Response(404)


CLIENT = {
    "client_name": "finding",
    "redirect_uris": ["http://127.0.0.1:1/callback"],
    "grant_types": ["authorization_code", "refresh_token"],
    "token_endpoint_auth_method": "none",
}


class Storage:
    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client_info):
        self.client = client_info


async def show(address):
    asked.append(address)


async def come_back():
    return AuthorizationCodeResult(
        code="c", state=parse_qs(urlsplit(asked[-1]).query)["state"][0]
    )


def provider(storage):
    about = OAuthClientMetadata.model_validate(CLIENT)
    return OAuthClientProvider(f"{BASE}/mcp", about, storage, show, come_back)


async def main():
    storage = Storage()
    transport = httpx2.MockTransport(serve)
    seen = []
    first = provider(storage)
    for auth in (first, first, provider(storage)):
        async with httpx2.AsyncClient(transport=transport, auth=auth) as client:
            before = len(bearers), len(asked)
            await client.post(f"{BASE}/mcp")
        seen.append((bearers[before[0] :], len(asked) - before[1], grants[-1]))
        await asyncio.sleep(1.2)  # the token ends
    for what, it in zip(("a login", "the same provider", "a new provider"), seen, strict=True):
        print(f"{what}: sent {it[0]}, asked a person {it[1]} times, last grant {it[2]}")
    expected = [
        ([None, "Bearer t1"], 1, "authorization_code"),
        (["Bearer t2"], 0, "refresh_token"),
        (["Bearer t2", "Bearer t3"], 1, "authorization_code"),
    ]
    if seen != expected:
        raise SystemExit(f"changed: {seen}")


asyncio.run(main())
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py 2>"$folder/log" || { tail -5 "$folder/log"; exit 1; }
