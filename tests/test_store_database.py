"""Tests of the SQLite file: whatever is wrong with it, nothing stops and nothing is destroyed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from store_support import Child, crowd

from tieredllm.store.database import Database, DatabaseError, is_on_network
from tieredllm.store.schema import APPLICATION_ID, STEPS


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "state.db"


def put(text="x", identity="b"):
    """Make a piece of work that writes one row."""
    return lambda connection: connection.execute(
        "INSERT OR REPLACE INTO rejected_parameters VALUES (?, ?, 0)", (identity, text)
    )


def rows(connection):
    return sorted(row[0] for row in connection.execute("SELECT parameter FROM rejected_parameters"))


def stored(path):
    """Read the file with plain SQLite."""
    connection = sqlite3.connect(path)
    try:
        return rows(connection)
    finally:
        connection.close()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def corrupt_copies(path):
    return sorted(
        p.name for p in path.parent.glob("*.corrupt-*") if not p.name.endswith(("-wal", "-shm"))
    )


def test_reading_what_is_missing_makes_nothing(path):
    """A read of a missing file gives its default and leaves no trace."""
    with Database(path) as database:
        assert database.read(rows, ["default"]) == ["default"]
        assert database.write(put(), "default", creates=False) == "default"
        assert database.problem is None

    assert list(path.parent.parent.iterdir()) == []


def test_the_first_write_makes_a_private_file(path):
    """The directory is made 0700, the file and its journals 0600, whatever the umask."""
    before = os.umask(0)
    try:
        with Database(path) as database:
            database.write(put(), None)
            modes = {p.name: mode(p) for p in (path.parent, *path.parent.iterdir())}
    finally:
        os.umask(before)

    assert modes == {
        "state": 0o700, "state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600
    }  # fmt: skip
    assert stored(path) == ["x"]


def test_an_open_mode_is_closed(path):
    """A file that others could read, from a backup for instance, is made private again."""
    with Database(path) as database:
        database.write(put(), None)
    path.chmod(0o644)
    with Database(path) as database:
        database.read(rows, None)

    assert mode(path) == 0o600


def test_the_header_tells_whose_it_is_and_which_version(path):
    """Mark, version and journal are in the file, with the tables."""
    with Database(path) as database:
        database.write(put(), None)
        header = database.read(
            lambda c: [
                c.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "journal_mode", "synchronous")
            ],
            None,
        )

    assert header == [APPLICATION_ID, len(STEPS), "wal", 1]


def test_importing_the_store_does_not_import_sqlite():
    """A command that needs no memory does not pay for SQLite."""
    code = (
        "import sys, tieredllm.health.memory, tieredllm.store.history, tieredllm.health.parameters;"
        "from pathlib import Path; from tieredllm.store.database import Database;"
        "Database(Path('/nonexistent/state.db')).read(len, None);"
        "print('sqlite3' in sys.modules, '_sqlite3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False False"


def test_opening_takes_few_statements(path):
    """An open of an existing file asks for mark and version, sets one thing, and no more."""
    with Database(path) as database:
        database.write(put(), None)
    statements = []
    real = sqlite3.connect

    def traced(*args, **kwargs):
        connection = real(*args, **kwargs)
        connection.set_trace_callback(statements.append)
        return connection

    with pytest.MonkeyPatch.context() as patch, Database(path) as database:
        patch.setattr(sqlite3, "connect", traced)
        database.read(rows, None)

    assert statements == [
        "PRAGMA user_version",
        "PRAGMA application_id",
        "PRAGMA synchronous=NORMAL",
        "SELECT parameter FROM rejected_parameters",
    ]


@pytest.mark.parametrize("kind", ["link", "link to nowhere", "directory", "fifo"])
def test_what_is_no_regular_file_is_left_alone(path, kind):
    """A link, a directory or a pipe in the file's place is neither followed nor replaced."""
    path.parent.mkdir()
    target = path.parent.parent / "victim"
    if kind == "link":
        target.write_bytes(b"precious")
    if kind.startswith("link"):
        path.symlink_to(target)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with Database(path) as database:
        assert database.read(rows, "default") == "default"
        database.write(put(), None)

        assert database.read(rows, None) == ["x"]
        assert "symbolic link" in database.problem or "not a regular file" in database.problem
    assert [p.name for p in path.parent.iterdir()] == ["state.db"]
    assert not target.exists() or target.read_bytes() == b"precious"


@pytest.mark.parametrize("place", ["/dev/full", "/dev/null/state.db", "/proc/state.db"])
def test_an_impossible_place_is_stood_in_for_by_memory(place):
    """Where no file can be, what is written lasts as long as the process."""
    with Database(Path(place)) as database:
        database.write(put(), None)

        assert database.read(rows, None) == ["x"]
        assert place in database.problem


def test_memory_alone_is_asked_for_with_no_path():
    """A database without a path keeps to memory, without complaint."""
    with Database(None) as database:
        assert database.read(rows, "default") == "default"
        database.write(put(), None)

        assert database.read(rows, None) == ["x"]
        assert database.problem is None


def test_after_a_while_the_file_is_tried_again(path, monkeypatch):
    """A process that lives long goes back to the file once it can be written."""
    path.mkdir(parents=True)
    database = Database(path)
    database.write(put("lost"), None)
    path.rmdir()
    now = time.monotonic()
    monkeypatch.setattr("tieredllm.store.database.time.monotonic", lambda: now + 61)
    database.write(put("kept"), None)
    database.close()

    assert stored(path) == ["kept"]


LOCKER = """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("INSERT INTO rejected_parameters VALUES ('b', 'locker', 0)")
    say("locked")
    wait()
    connection.execute("COMMIT")
    connection.close()
"""


def test_a_locked_file_costs_a_tenth_of_a_second(path):
    """While another process holds the lock, reads and writes give up soon, and say so."""
    with Database(path) as database:
        database.write(put("first"), None)
    with Child(path, LOCKER) as locker:
        assert locker.line() == "locked"
        database = Database(path)
        started = time.monotonic()
        read = database.read(rows, "default")
        first_s = time.monotonic() - started
        for number in range(10):
            assert database.write(put(f"lost {number}"), "default") == "default"
        rest_s = time.monotonic() - started - first_s
        trouble = database.problem
        locker.go()
        locker.end()
    database.write(put("last"), None)
    database.close()

    assert read in ("default", ["first"])  # a WAL may be read while somebody writes
    assert first_s < 0.5
    assert rest_s < 1.2  # a tenth of a second twice more, then a hundredth each
    assert "another process keeps it locked" in trouble
    assert stored(path) == ["first", "last", "locker"]


def test_a_patient_write_waits_for_the_lock(path):
    """What must not be lost may wait longer, also after many waits were in vain."""
    with Database(path) as database:
        database.write(put("first"), None)
    database = Database(path)
    with Child(path, LOCKER) as locker:
        locker.line()
        for _ in range(5):
            database.write(put("lost"), None)
        timer = threading.Timer(0.5, locker.go)
        timer.start()
        database.write(put("patient"), None, wait_s=10)
        timer.join()
        locker.end()
    database.close()

    assert stored(path) == ["first", "locker", "patient"]


HEAD, MIDDLE = b"\xde\xad\xbe\xef" * 64, b"\xff" * 3000


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "header":
        data[: len(HEAD)] = HEAD
    elif kind == "pages":
        for start in range(4096, len(data), 4096):
            data[start : start + len(MIDDLE)] = MIDDLE
    elif kind == "text":
        data[:] = b"this was never a database\n" * 100
    elif kind == "cut":
        del data[len(data) // 2 :]
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("kind", ["header", "pages", "text", "cut"])
@pytest.mark.parametrize("first", ["read", "write"])
def test_a_damaged_file_is_moved_aside(path, kind, first):
    """A damaged file is kept under another name, and a new one is started by the next write."""
    with Database(path) as database:
        database.write(put(), None)
    damage(path, kind)
    damaged = path.read_bytes()
    with Database(path) as database:
        if first == "read":
            assert database.read(rows, "default") == "default"
            assert not path.exists()
        database.write(put("new"), None)
        trouble = database.problem
    [kept] = corrupt_copies(path)

    assert stored(path) == ["new"]
    assert path.with_name(kept).read_bytes() == damaged
    assert kept.startswith("state.db.corrupt-20")
    assert kept in trouble


def test_an_empty_file_is_no_damage(path):
    """A file that was made by a process that was killed at once is simply filled."""
    path.parent.mkdir()
    path.touch()
    with Database(path) as database:
        assert database.read(rows, "default") == "default"
        database.write(put(), None)
        assert database.problem is None

    assert stored(path) == ["x"]
    assert corrupt_copies(path) == []


def test_many_processes_move_a_damaged_file_aside_once(path):
    """Eight processes that find the same damage at once lose none of what they then write."""
    with Database(path) as database:
        database.write(put(), None)
    damage(path, "header")
    code = """
        database = Database(path, wait_s=5)
        row = "INSERT INTO rejected_parameters VALUES ('b', ?, 0)"
        database.write(lambda c: c.execute(row, (str(os.getpid()),)), None)
        database.close()
        say(os.getpid())
    """
    said = crowd(8, path, code)

    assert stored(path) == said
    assert len(corrupt_copies(path)) == 1


def test_a_process_notices_that_the_file_was_replaced(path):
    """A connection to a file that was moved away is not written to any more."""
    database = Database(path)
    database.write(put("old"), None)
    for file in list(path.parent.iterdir()):
        file.rename(file.with_name(f"moved-{file.name}"))
    before = database.read(rows, "default")
    database.write(put("new"), None)
    database.close()

    assert before == "default"
    assert stored(path) == ["new"]


def test_a_newer_schema_is_left_alone(path):
    """A file of a newer version is neither read nor written nor moved."""
    newer = (*STEPS, ("CREATE TABLE later (x)",))
    with Database(path, steps=newer) as database:
        database.write(put("future"), None)
    before = path.read_bytes()
    with Database(path) as database:
        assert database.read(rows, "default") == "default"
        assert f"a newer tieredllm made it (schema {len(newer)}" in database.problem
        database.write(put("now"), None)
        assert database.read(rows, None) == ["now"]
        assert f"a newer tieredllm made it (schema {len(newer)}" in database.problem

    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["state.db"]


def test_a_folder_that_is_none_is_told_in_words(tmp_path):
    """What the system says, and the path once."""
    (tmp_path / "state").write_text("a file")
    with Database(tmp_path / "state" / "state.db") as database:
        database.read(rows, None)

    expected = f"cannot use {tmp_path / 'state' / 'state.db'}: {os.strerror(errno.ENOTDIR)}"
    assert expected == database.problem


def test_an_older_schema_is_brought_up_to_date(path):
    """A file of an older version keeps its rows and gets the new tables, also by a read."""
    with Database(path) as database:
        database.write(put("old"), None)
    with Database(path, steps=(*STEPS, ("CREATE TABLE later (x)",))) as database:
        assert database.read(rows, None) == ["old"]
        assert database.read(lambda c: c.execute("SELECT * FROM later").fetchall(), None) == []


@pytest.mark.parametrize("marked", [False, True])
def test_another_programs_database_is_left_alone(path, marked):
    """A database with tables or a mark that are not ours is not touched."""
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    if marked:
        other.execute("PRAGMA application_id=77")
    other.commit()
    other.close()
    before = path.read_bytes()
    with Database(path) as database:
        database.write(put(), None)
        assert "another program's" in database.problem

    assert path.read_bytes() == before


def test_a_migration_that_is_killed_leaves_no_trace(path):
    """SIGKILL between two statements of a step: the next process makes the whole step."""
    with Database(path) as database:
        database.write(put("old"), None)
    code = """
        from tieredllm.store.schema import STEPS

        def step():
            yield "CREATE TABLE later (x)"
            yield "INSERT INTO later VALUES (1)"
            os.kill(os.getpid(), signal.SIGKILL)

        Database(path, steps=(*STEPS, step())).read(lambda c: say("no"), None)
    """
    with Child(path, code) as child:
        assert child.line() == ""
        child.process.wait(timeout=30)
        killed = child.process.returncode
    between = Database(path).read(rows, None)
    step = ("CREATE TABLE later (x)", "INSERT INTO later VALUES (2)")
    with Database(path, steps=(*STEPS, step)) as database:
        later = database.read(lambda c: c.execute("SELECT x FROM later").fetchall(), None)
        trouble = database.problem

    assert killed == -signal.SIGKILL
    assert between == ["old"]
    assert (later, trouble) == ([(2,)], None)


def test_a_step_that_fails_leaves_the_old_version(path):
    """A step with a mistake changes nothing, and memory stands in or the default is given."""
    with Database(path) as database:
        database.write(put("old"), None)
    bad = (*STEPS, ("CREATE TABLE later (x)", "CREATE TABLE later (x)"))
    with Database(path, steps=bad) as database:
        assert database.read(rows, "default") == "default"
        assert "later" in database.problem

    assert Database(path).read(rows, None) == ["old"]


def test_writers_that_are_killed_damage_nothing(path):
    """SIGKILL at any moment of writing: what was committed is there, and the file is sound."""
    code = """
        database = Database(path)
        number = 0
        while True:
            number += 1
            database.write(
                lambda c: c.execute(
                    "INSERT INTO rejected_parameters VALUES (?, ?, 0)", (str(number), "x" * 3000)
                ),
                None,
            )
            say(number)
    """
    for delay_s in (0.0, 0.011, 0.037):
        with Child(path, code) as child:
            child.line()
            time.sleep(delay_s)
            printed = child.kill().split()
        said = int(printed[-1]) if printed else 1
        with Database(path) as database:
            count = database.read(
                lambda c: c.execute("SELECT count(*) FROM rejected_parameters").fetchone()[0], None
            )
            check = database.read(lambda c: c.execute("PRAGMA integrity_check").fetchall(), None)
            assert database.problem is None
            database.write(lambda c: c.execute("DELETE FROM rejected_parameters"), None)

        assert check == [("ok",)]
        assert said <= count <= said + 1


def test_twenty_writers_lose_nothing(path):
    """Twenty processes that write at the same time all find what they wrote."""
    code = """
        database = Database(path)
        row = "INSERT INTO rejected_parameters VALUES ('b', ?, 0)"
        for number in range(10):
            name = f"{os.getpid()}-{number}"
            database.write(lambda c, name=name: c.execute(row, (name,)), None, wait_s=20)
        database.close()
        say(database.problem)
    """
    troubles = set(crowd(20, path, code))

    assert troubles <= {"None", f"cannot use {path}: another process keeps it locked"}
    assert len(stored(path)) == 200


def test_a_full_disk_is_stood_in_for_by_memory(path):
    """When the file cannot grow, what is written lasts as long as the process."""
    code = """
        import resource
        database = Database(path)
        put = "INSERT INTO rejected_parameters VALUES ('b', ?, 0)"
        database.write(lambda c: c.execute(put, ("a",)), None)
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        for number in range(200):
            database.write(lambda c: c.execute(put, (str(number) + "x" * 4000,)), None)
        count = database.read(
            lambda c: c.execute("SELECT count(*) FROM rejected_parameters").fetchone()[0], None
        )
        say(count > 0, database.problem)
        database.close()
    """
    with Child(path, code) as child:
        lasted, _, trouble = child.end().partition(" ")
    after = stored(path)

    assert lasted == "True"
    assert trouble.startswith(f"cannot use {path}: ")
    assert "a" in after
    assert Database(path).read(lambda c: c.execute("PRAGMA integrity_check").fetchone(), None) == (
        "ok",
    )


def test_a_disk_that_is_full_from_the_start_is_no_damage(path):
    """A file that could not even get its tables is not taken for a damaged one later."""
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        database = Database(path)
        database.write(lambda c: c.execute("DELETE FROM rejected_parameters"), None)
        say(database.problem)
        database.close()
    """
    with Child(path, code) as child:
        trouble = child.end()
    with Database(path) as database:
        database.write(put(), None)
        assert database.problem is None

    assert trouble.startswith(f"cannot use {path}: ")
    assert (stored(path), corrupt_copies(path)) == (["x"], [])


@pytest.fixture
def public_folder():
    """Make a folder that any user may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_written_is_stood_in_for_by_memory(public_folder, what):
    """An owner's file is read by nobody else; a folder that is not ours gets no file."""
    path = public_folder / "state.db"
    with Database(path) as database:
        database.write(put("old"), None)
        database.read(lambda c: c.execute("PRAGMA journal_mode=DELETE").fetchone(), None)
    if what == "file":
        path.chmod(0o444)
    else:
        path.unlink()
    public_folder.chmod(0o555)
    code = """
        import random
        if os.geteuid() == 0:  # root may write anything
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        database = Database(path)
        read = lambda c: c.execute("SELECT parameter FROM rejected_parameters").fetchall()
        put = "INSERT INTO rejected_parameters VALUES (1, 2, 0)"
        say(database.read(read, []))
        database.write(lambda c: c.execute(put), None)
        say(database.read(read, []))
        say(database.problem)
    """
    with Child(path, code) as child:
        before, after, trouble = child.end().splitlines()
    public_folder.chmod(0o755)

    assert before == ("[('old',)]" if what == "file" else "[]")
    assert after == "[('2',)]"
    assert trouble.startswith(f"cannot use {path}: ")
    assert corrupt_copies(path) == []


def test_without_shared_memory_the_old_journal_is_used(path, monkeypatch):
    """Where a write-ahead log cannot be had, the file works all the same, and no trial is left."""
    monkeypatch.setattr("tieredllm.store.database.os.urandom", lambda _: b"x")
    (path.parent / "state.db.trial-78-shm").mkdir(parents=True)
    with Database(path) as database:
        database.write(put(), None)
        journal = database.read(lambda c: c.execute("PRAGMA journal_mode").fetchone(), None)
        assert database.problem is None

    assert (stored(path), journal) == (["x"], ("delete",))
    assert sorted(p.name for p in path.parent.iterdir()) == ["state.db", "state.db.trial-78-shm"]


MOUNTS = r"""
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/ann/disk xfs rw 0 0
//nas/share /mnt/my\040share cifs rw 0 0
tmpfs /tmp tmpfs rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/var/lib", False),
        ("/home/bob/.local", True),
        ("/homework", False),
        ("/home/ann/disk/x", False),
        ("/mnt/my share/x", True),
        ("/tmp", False),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(folder, expected):
    """The innermost mount point decides, and a similar name is not a mount point."""
    assert is_on_network(Path(folder), MOUNTS) is expected


def test_a_fork_does_not_share_a_connection(path):
    """Parent and child go on with a connection each, and both their rows arrive, every time."""
    code = """
        def put(name):
            row = "INSERT INTO rejected_parameters VALUES ('b', ?, 0)"
            return lambda c: c.execute(row, (name,))

        for turn in range(10):
            database = Database(path)
            database.write(put(f"before {turn}"), None)
            child = os.fork()
            name = "child" if child == 0 else "parent"
            for number in range(20):
                database.write(put(f"{name} {turn} {number}"), None, wait_s=20)
            database.close()
            if child == 0:
                sys.exit(0)
            say(os.waitpid(child, 0)[1], database.problem)
    """
    with Child(path, code) as child:
        assert child.end().splitlines() == ["0 None"] * 10

    assert len(stored(path)) == 10 * 41


def test_threads_take_turns(path):
    """Several threads may use one database."""
    with Database(path) as database:
        threads = [
            threading.Thread(target=lambda n=n: database.write(put(f"{n}"), None)) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(database.read(rows, None)) == 8
        assert database.problem is None


def test_an_interruption_rolls_back(path):
    """Ctrl-C in the middle of a write leaves nothing of it, and the next write works."""

    def interrupted(connection):
        put("half")(connection)
        raise KeyboardInterrupt

    with Database(path) as database:
        database.write(put("before"), None)
        with pytest.raises(KeyboardInterrupt):
            database.write(interrupted, None)
        database.write(put("after"), None)

        assert database.read(rows, None) == ["after", "before"]


def test_work_that_makes_no_sense_of_a_row_gives_the_default(path):
    """A row whose content is damaged stops nothing, and the file stays where it is."""
    with Database(path) as database:
        database.write(put("x"), None)
        assert database.read(lambda c: int(rows(c)[0]), -1) == -1
        assert database.write(lambda c: c.execute("INSERT INTO nowhere VALUES (1)"), -1) == -1
        assert "nowhere" in database.problem
        assert database.read(rows, None) == ["x"]

    assert corrupt_copies(path) == []


def test_compacting_removes_what_was_deleted(path):
    """Text that was deleted is not in the file any more."""
    with Database(path) as database:
        database.write(put("SECRET" * 1000), None)
        database.write(lambda c: c.execute("DELETE FROM rejected_parameters"), None)
        assert database.compact()
        files = [p.read_bytes() for p in path.parent.iterdir()]

    assert not any(b"SECRET" in data for data in files)


NOBODY = """
    import random
    if os.geteuid() == 0:  # root may read and write anything
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    database = Database(path)
    read = lambda c: c.execute("SELECT parameter FROM rejected_parameters").fetchall()
"""


def test_a_folder_that_cannot_be_written_can_be_read(public_folder):
    """A file with a write-ahead log is read where nothing can be made beside it."""
    path = public_folder / "state.db"
    with Database(path) as database:
        database.write(put("old"), None)
    path.chmod(0o444)
    public_folder.chmod(0o555)
    code = """
        say(database.require(read, []), database.problem)
        database.write(lambda c: c.execute("DELETE FROM rejected_parameters"), None)
        say(database.stands_in)
    """
    with Child(path, NOBODY, code) as child:
        said = child.end().splitlines()
    public_folder.chmod(0o755)

    assert said == ["[('old',)] None", "True"]
    assert stored(path) == ["old"]


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_cannot_be_read_is_not_taken_for_missing(public_folder, what):
    """A file that may not be looked at is an error, and not an empty log."""
    folder = public_folder / "state"
    path = folder / "state.db"
    with Database(path) as database:
        database.write(put("old"), None)
    folder.chmod(0o755)
    (folder if what == "folder" else path).chmod(0)
    code = """
        from tieredllm.store.database import DatabaseError
        say(database.read(read, "default"))
        try:
            database.require(read, [])
        except DatabaseError as error:
            say(error)
    """
    with Child(path, NOBODY, code) as child:
        default, error = child.end().splitlines()
    folder.chmod(0o755)

    assert default == "default"
    assert error.startswith(f"cannot use {path}: ")


def test_a_damaged_file_is_not_read_as_an_empty_one(path):
    """Whoever must know is told that the file was moved aside; afterwards there is none."""
    with Database(path) as database:
        database.write(put(), None)
    damage(path, "header")
    with Database(path) as database:
        with pytest.raises(DatabaseError, match="was damaged: it is kept as"):
            database.require(rows, [])
        assert database.require(rows, "none") == "none"
