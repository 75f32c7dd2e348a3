"""Become a server that does not outlive the program which started it, however that ends.

Run as a script: `launch.py FD LC_CTYPE PROGRAM ARGUMENT…`, the leader of a process group. Only the
program could write to the descriptor, and never does: at its end the group is killed. SIGKILL
leaves the program no time for that, Linux' PR_SET_PDEATHSIG ends a launcher (`npx`, `sh -c`) alone,
and who watches from outside may be started too late.
"""

from __future__ import annotations

import os
import signal
import sys

_ONCE_ALONE = "read -r _; kill -s KILL 0"
"""Waits until nobody could write any more, then ends its process group."""


def _watch(alive: int) -> None:
    """Leave a process in the group that kills it; it is no child of the server's."""
    if os.fork() == 0:
        if os.fork() == 0:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # the server may outlive these
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for given, kept in ((alive, 0), (nowhere, 1), (nowhere, 2)):
                os.dup2(given, kept)
            os.execve("/bin/sh", ["sh", "-c", _ONCE_ALONE], {})  # noqa: S606 - written here
        os._exit(0)
    os.wait()


def main(alive: int, lc_ctype: str, command: list[str]) -> None:
    """Leave the watching process behind, and become the server.

    Args:
        alive: the descriptor that ends with the program.
        lc_ctype: the server's `LC_CTYPE`, of which Python makes another one (PEP 538).
        command: the server, by its path, and its arguments.
    """
    _watch(alive)
    os.close(alive)
    os.environ.pop("LC_CTYPE", None)
    if lc_ctype:
        os.environ["LC_CTYPE"] = lc_ctype
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(command[0], command)  # noqa: S606 - what the profile names
    except OSError as exc:
        sys.exit(f"error: {command[0]} cannot be run: {exc.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
