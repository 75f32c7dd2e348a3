"""Remote MCP servers that want a login: a browser, a port of this machine, and tokens that last."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

BROWSER = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()"


class House:
    """A server of tools, and the one that gives tokens for it."""

    def __init__(self):
        self.tokens = {"first"}
        self.grants = []
        self.lasts_s = 3600
        self.registers = True
        self.refuses = False
        house = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                house.get(self)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                house.post(self, body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler, value, status=200, **headers):
        body = json.dumps(value).encode() if value is not None else b""
        handler.send_response(status)
        for name, text in {"content-type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def get(self, handler):
        url = urllib.parse.urlsplit(handler.path)
        if url.path.startswith("/.well-known/oauth-protected-resource"):
            value = {"resource": f"{self.base}/mcp", "authorization_servers": [self.base]}
            self.answer(handler, value)
        elif url.path == "/.well-known/oauth-authorization-server":
            value = {
                "issuer": self.base,
                "authorization_endpoint": f"{self.base}/authorize",
                "token_endpoint": f"{self.base}/token",
                "registration_endpoint": f"{self.base}/register",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
            }
            self.answer(handler, value)
        elif url.path == "/authorize":
            asked = {name: it[0] for name, it in urllib.parse.parse_qs(url.query).items()}
            said = {"error": "access_denied", "error_description": "you said no"}
            said = said if self.refuses else {"code": "c0de"}
            back = urllib.parse.urlencode({**said, "state": asked["state"]})
            self.answer(handler, None, 302, location=f"{asked['redirect_uri']}?{back}")
        else:
            self.answer(handler, {"error": "not found"}, 404)

    def post(self, handler, body):
        if handler.path == "/register" and not self.registers:
            self.answer(handler, {"error": "not found"}, 404)
        elif handler.path == "/register":
            self.answer(handler, json.loads(body) | {"client_id": "me"}, 201)
        elif handler.path == "/token":
            grant = dict(urllib.parse.parse_qsl(body.decode()))
            self.grants.append(grant["grant_type"])
            token = f"token{len(self.grants)}"
            self.tokens = {token}
            value = {"access_token": token, "token_type": "Bearer", "refresh_token": "again"}
            self.answer(handler, value | {"expires_in": self.lasts_s})
        elif handler.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            where = f"{self.base}/.well-known/oauth-protected-resource/mcp"
            self.answer(handler, {}, 401, www_authenticate=f'Bearer resource_metadata="{where}"')
        else:
            self.speak(handler, json.loads(body))

    def speak(self, handler, message):
        if "id" not in message:
            self.answer(handler, None, 202)
            return
        results = {
            "initialize": {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "crm", "version": "1"},
            },
            "tools/list": {
                "tools": [
                    {
                        "name": "who",
                        "inputSchema": {"type": "object"},
                        "annotations": {"readOnlyHint": True},
                    }
                ]
            },
            "tools/call": {"content": [{"type": "text", "text": "it is you"}]},
        }
        result = results.get(message["method"])
        value = {"jsonrpc": "2.0", "id": message["id"]}
        error = {"error": {"code": -32601, "message": "Method not found"}}
        self.answer(handler, value | ({"result": result} if result is not None else error))


@pytest.fixture
def house():
    """Run one."""
    made = House()
    yield made
    made.server.shutdown()
    made.server.server_close()


def environment(folder):
    """Give the variables of a user without a browser."""
    return {
        "PATH": os.environ["PATH"],
        "TIEREDLLM_HOME": str(folder / "home"),
        "HOME": str(folder),
    }


def command(folder, house):
    """Write a profile with the server; give a command line's beginning."""
    profile = folder / "profile.yaml"
    profile.write_text(
        "name: test\ntiers: [{name: rules, provider: rules}]\n"
        f"tools: {{mcp: {{crm: {{url: '{house.base}/mcp'}}, own: {{command: cat}}}}}}\n"
    )
    return [sys.executable, "-m", "tieredllm", "-p", str(profile), "tools"]


def tieredllm(folder, house, *args):
    """Run a command whose browser is a program that follows where it is led."""
    browser = folder / "browser"
    browser.write_text(f"#!{sys.executable}\n{BROWSER}\n")
    browser.chmod(0o755)
    return subprocess.run(
        [*command(folder, house), *args],
        env=environment(folder) | {"BROWSER": f"{browser} %s"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_login_lasts_and_is_renewed(tmp_path, house):
    """A 401 names the command; once logged in calls work, and a token that has ended is renewed."""
    house.lasts_s = 1
    before = tieredllm(tmp_path, house, "call", "crm__who")
    login = tieredllm(tmp_path, house, "login", "crm")
    house.lasts_s = 3600
    after = tieredllm(tmp_path, house, "call", "crm__who")
    again = tieredllm(tmp_path, house, "call", "crm__who")
    [kept] = (tmp_path / "home" / "state" / "mcp_logins").iterdir()

    assert before.returncode == 2
    assert "HTTP 401 Unauthorized" in before.stderr
    assert "log in with `tieredllm tools login crm`" in before.stderr
    assert (login.returncode, login.stderr.splitlines()[-1]) == (
        0,
        "logged in to crm: it has 1 tools",
    )
    assert f"log in at {house.base}/authorize?" in login.stderr
    assert (after.stdout, again.stdout) == ("it is you\n", "it is you\n")
    assert house.grants == ["authorization_code", "refresh_token"]
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_browser_on_another_machine_will_do(tmp_path, house):
    """Where no browser is, the address that one elsewhere ended at is pasted, at the second try."""
    with subprocess.Popen(
        [*command(tmp_path, house), "login", "crm"],
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        address = program.stderr.readline().removeprefix("log in at ").strip()
        parts = urllib.parse.urlsplit(address)
        elsewhere = http.client.HTTPConnection(parts.netloc)
        elsewhere.request("GET", f"{parts.path}?{parts.query}")
        ended_at = elsewhere.getresponse().getheader("location")
        elsewhere.close()
        program.stdin.write(f"what now?\n{ended_at}\n")
        program.stdin.flush()
        said = [line.strip() for line in program.stderr]

    assert program.returncode == 0
    assert said[1:] == [
        "no login is in that: paste the whole address, with its `?code=…`",
        "logged in to crm: it has 1 tools",
    ]
    assert tieredllm(tmp_path, house, "call", "crm__who").stdout == "it is you\n"


def test_a_login_that_fails_is_told(tmp_path, house):
    """A person's no, and a server that registers nobody, end the command with what they mean."""
    house.refuses = True
    refused = tieredllm(tmp_path, house, "login", "crm")
    house.registers = False
    unknown = tieredllm(tmp_path, house, "login", "crm")

    assert (refused.returncode, unknown.returncode) == (2, 2)
    last = refused.stderr.splitlines()[-1]
    assert last == "tieredllm: MCP server crm: the login was refused: you said no"
    assert unknown.stderr.splitlines()[-1] == (
        "tieredllm: MCP server crm: it takes no login of a program that it does not know; name the "
        "variable that holds a token: `headers_env: {Authorization: NAME}`"
    )


def test_a_login_that_makes_no_sense_is_told(tmp_path, house):
    """Only a remote server that is declared takes one."""
    unknown = tieredllm(tmp_path, house, "login", "nothing")
    program = tieredllm(tmp_path, house, "login", "own")

    assert (unknown.returncode, program.returncode) == (2, 2)
    assert "no MCP server `nothing` is declared: there are crm, own" in unknown.stderr
    assert "it is a program: only servers with a `url` take a login" in program.stderr
