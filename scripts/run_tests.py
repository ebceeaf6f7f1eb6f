"""Runs the suite in two halves at once, each in a process of its own: what builds images, and all else.

With arguments, pytest is run with these alone.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile

PYTEST = [sys.executable, "-m", "pytest"]
IMAGES = ["tests/builders", "tests/integration"]
OTHERS = [f"--ignore={item}" for item in IMAGES]


def ended(half: subprocess.Popen[bytes]) -> int:
    """Its exit code. Ctrl-C at a terminal reaches it too, and it ends its own servers and containers first."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return half.wait()


def main(arguments: list[str]) -> int:
    """The exit code of pytest; of two, the first half's that failed."""
    if arguments:
        return subprocess.run([*PYTEST, *arguments], check=False).returncode
    with tempfile.TemporaryFile("w+") as told:
        others = subprocess.Popen([*PYTEST, *OTHERS], stdout=told, stderr=subprocess.STDOUT)
        images = subprocess.Popen([*PYTEST, *IMAGES])
        codes = [ended(images), ended(others)]
        told.seek(0)
        shutil.copyfileobj(told, sys.stdout)
    return codes[0] or codes[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
