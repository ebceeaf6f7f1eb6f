"""Who the command line runs as: never root while model code runs.

The image starts as root, so that `docker run -v "$PWD/volume:/volume" IMAGE predict …` can write into anybody's
directory. Before anything of the model is touched it becomes OUTPUT_DIR's owner, and the result is that owner's.
Into a directory of root's only a waiting parent process writes (`as_nobody_for_root`). Started with `--user`,
it stays what it was told to be. Without OUTPUT_DIR it becomes nobody (65532).
"""

from __future__ import annotations

import os
import pwd
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from mpack_runtime.cli.errors import Unusable

NOBODY = 65532
VENV = "/opt/mpack/venv"


def is_root() -> bool:
    """True as root in an image. Elsewhere (`mpack run --local`) the command runs as the user who started it."""
    return os.geteuid() == 0 and sys.prefix == VENV


def become_nobody() -> None:
    """Drops root where there is no OUTPUT_DIR. In a sandbox that may not change users, root has no power to drop."""
    if is_root():
        try:
            _become(NOBODY, NOBODY)
        except PermissionError:
            pass


def become_owner(directory: Path) -> bool:
    """Becomes the owner of `directory`. False if root owns it (then see `as_nobody_for_root`). Raises Unusable."""
    if not is_root():
        return True
    status = directory.stat()
    if status.st_uid == 0:
        return False
    try:
        _become(status.st_uid, status.st_gid)
    except PermissionError:
        raise Unusable(
            f"{directory} belongs to user {status.st_uid}, and this container may not change to that user. "
            f"Run it with --user {status.st_uid}:{status.st_gid}, or with the capabilities SETUID and SETGID."
        ) from None
    return True


def as_nobody_for_root(work: Callable[[], int], finish: Callable[[bool], None]) -> int:
    """Runs `work` in a child process as nobody while this one, root, waits; then `finish(succeeded)`; work's exit code.

    The files that `work` reads and writes must be open already. Where changing users is forbidden, root has no
    capability either, and `work` runs as it is.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            become_nobody()
            code = work()
        finally:
            sys.stderr.flush()
            os._exit(code)
    # The child gets the terminal's Ctrl-C itself, and cleans nothing up: that is done here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finish(code == 0)
    return code if code >= 0 else 128 - code


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    try:
        os.environ["HOME"] = pwd.getpwuid(uid).pw_dir
    except KeyError:
        os.environ["HOME"] = "/"
