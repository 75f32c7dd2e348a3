"""A server on 127.0.0.1 that answers as the Hugging Face hub and its content network do.

Wire format, as seen at huggingface.co: `HEAD /REPO/resolve/REVISION/FILE` gives 302 with
`X-Linked-Etag`, `X-Linked-Size`, `X-Repo-Commit` and the file's place on another host; errors have
`X-Error-Code`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote


class FakeHub:
    """Hold the files, the faults to show, and what was asked."""

    def __init__(self):
        self.files = {}
        self.sent = {}
        """What the content network sends, where it is not what the hub promises."""
        self.refusals = {}
        """Repository → (status, X-Error-Code)."""
        self.cuts = []
        """Bytes after which each of the next downloads breaks off."""
        self.statuses = []
        """Statuses of the next downloads, instead of the content."""
        self.ranges = True
        self.etag = None
        """What is told instead of a file's SHA-256."""
        self.size = None
        """What is told instead of a file's size."""
        self.requests = []
        self.renamed = {}
        """A repository's old name → its name today."""
        self.task = "text-generation"
        """What the repositories' models are for."""
        self.described = None
        """What is told of a repository, instead of what it has."""
        self.strays = []
        """What was asked that is no file."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def downloads(self):
        """Give the headers of each download of content."""
        return [headers for method, path, headers in self.requests if "/cdn/" in path]

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(hub):  # noqa: N805 - the handler's own self is another
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, status, headers=(), body=b""):
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                if "Content-Length" not in dict(headers):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_HEAD(self):
                self.serve()

            def do_GET(self):
                self.serve()

            def serve(self):
                hub.requests.append((self.command, self.path, dict(self.headers)))
                if self.path.startswith("/cdn/"):
                    self.content(unquote(self.path).removeprefix("/cdn/").partition("?")[0])
                    return
                asked = re.fullmatch(
                    r"/api/models/([^/]+/[^/]+)/revision/([^/?]+)(\?.*)?", self.path
                )
                if asked is not None:
                    self.describe(asked[1], asked[2])
                    return
                path = unquote(self.path)
                found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
                if found is None:
                    hub.strays.append(self.path)
                    self.answer(404)
                    return
                repository, _, file = found.groups()
                if repository in hub.refusals:
                    status, code = hub.refusals[repository]
                    self.answer(status, {"X-Error-Code": code} if code else {})
                elif (repository, file) not in hub.files:
                    self.answer(404, {"X-Error-Code": "EntryNotFound"})
                else:
                    data = hub.files[repository, file]
                    self.answer(
                        302,
                        {
                            "Location": quote(
                                f"http://localhost:{hub.port}/cdn/{repository}/{file}", safe=":/"
                            ),
                            "X-Repo-Commit": "c" * 40,
                            "X-Linked-Etag": f'"{hub.etag or hashlib.sha256(data).hexdigest()}"',
                            "X-Linked-Size": str(hub.size or len(data)),
                            "ETag": '"another"',
                        },
                    )

            def describe(self, repository, revision):
                """`GET /api/models/REPO/revision/REVISION?blobs=true`."""
                if repository in hub.renamed:
                    now = hub.renamed[repository]
                    where = f"/api/models/{now}/revision/{revision}?blobs=true"
                    self.answer(307, {"Location": where})
                    return
                if repository in hub.refusals:
                    status, code = hub.refusals[repository]
                    self.answer(status, {"X-Error-Code": code} if code else {})
                    return
                if hub.described is not None:
                    body = json.dumps(hub.described).encode()
                    self.answer(200, {"Content-Type": "application/json"}, body)
                    return
                files = [(name, data) for (of, name), data in hub.files.items() if of == repository]
                if not files:
                    self.answer(404, {"X-Error-Code": "RepoNotFound"})
                    return
                described = {
                    "id": repository,
                    "cardData": {"license": "apache-2.0"},
                    "pipeline_tag": hub.task,
                    "siblings": [{"rfilename": name, "size": len(data)} for name, data in files],
                }
                body = json.dumps(described).encode()
                self.answer(200, {"Content-Type": "application/json"}, body)

            def content(self, name):
                if hub.statuses:
                    self.answer(hub.statuses.pop(0))
                    return
                owner, repository, file = name.split("/", 2)
                key = (f"{owner}/{repository}", file)
                data = hub.sent.get(key, hub.files[key])
                start, headers, status = 0, {}, 200
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                if wanted and hub.ranges:
                    start, status = int(wanted.group(1)), 206
                    if start >= len(data):
                        self.answer(416)
                        return
                    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                headers["Content-Length"] = str(len(data) - start)
                body = data[start:]
                if hub.cuts:
                    body = body[: hub.cuts.pop(0)]
                    self.close_connection = True
                self.answer(status, headers, body)

        return Handler
