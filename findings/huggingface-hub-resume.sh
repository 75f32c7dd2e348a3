#!/bin/sh
# huggingface_hub 2.4.0 (run 2026-11), `hf_hub_download(..., local_dir=...)` over plain HTTP: a download
# whose process was killed is not gone on with by the next call, although the server takes ranges. The
# second call asks for the whole file again, and what the first had written stays in
# LOCAL_DIR/.cache/huggingface/download as `….incomplete` for good: each interrupted download of a
# 2 GB model leaves up to 2 GB that nothing removes. (Its source, file_download.py, gives a broken
# flock on some network file systems as the reason for a file name of each process's own: #4228.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0
cat > "$folder/finding.py" <<'PYTHON'
import hashlib
import http.server
import os
import pathlib
import subprocess
import sys
import threading

SIZE, BEFORE_STOP = 30_000_000, 20_000_000
CONTENT = os.urandom(SIZE)
HASH = hashlib.sha256(CONTENT).hexdigest()
ranges, written, slow = [], threading.Event(), True


class Hub(http.server.BaseHTTPRequestHandler):
    """One file, as a hub serves it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(0)

    def do_GET(self):
        if "/resolve/" in self.path:
            self.send_file()
        else:
            self.send_error(404)

    def send_file(self):
        asked = self.headers.get("range")
        ranges.append(asked)
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.answer(start)
        if slow:
            self.wfile.write(CONTENT[start:BEFORE_STOP])
            self.wfile.flush()
            written.set()
            threading.Event().wait(5)
            self.close_connection = True
        else:
            self.wfile.write(CONTENT[start:])

    def answer(self, start):
        self.send_response(206 if start else 200)
        if start:
            self.send_header("content-range", f"bytes {start}-{SIZE - 1}/{SIZE}")
        self.send_header("accept-ranges", "bytes")
        self.send_header("content-length", str(SIZE - start))
        self.send_header("x-repo-commit", "a" * 40)
        self.send_header("etag", f'"{HASH}"')
        self.end_headers()


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
server.handle_error = lambda *_: None  # the killed client
threading.Thread(target=server.serve_forever, daemon=True).start()
here = pathlib.Path.cwd()
command = [
    sys.executable,
    "-c",
    "from huggingface_hub import hf_hub_download as get; get('owner/repo', 'f.gguf', local_dir='out')",
]
environment = {
    **os.environ,
    "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
    "HF_HOME": str(here / "home"),
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def partial_files():
    found = here.glob("out/.cache/huggingface/download/*.incomplete")
    return sorted(path.stat().st_size for path in found)


first = subprocess.Popen(command, env=environment)
assert written.wait(60)
while not partial_files() or partial_files()[0] < 10_000_000:
    assert first.poll() is None
first.kill()
first.wait()
kept = partial_files()
slow = False
subprocess.run(command, env=environment, check=True, timeout=60)
whole = hashlib.sha256((here / "out/f.gguf").read_bytes()).hexdigest() == HASH
print(f"kept by the killed download: {len(kept)} file of {kept[0]} bytes")
print(f"ranges asked for: {ranges}; whole file: {whole}; partial files afterwards: {partial_files()}")
if (ranges, whole, partial_files()) != ([None, None], True, kept):
    raise SystemExit("changed")
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" finding.py
