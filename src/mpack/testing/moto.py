"""moto's server, which speaks AWS's protocols, in an environment of its own; the environment has botocore too."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

#: Seconds: the longest wait for it to listen.
_PATIENCE = 60.0


def moto_environment(place: Path, lock: Path) -> Path:
    """The interpreter of an environment of the lock's packages below `place`, made where it is not there yet."""
    venv, uv = place / "s3-venv", str(Path(sys.executable).with_name("uv"))
    python = venv / "bin" / "python"
    if not venv.exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(venv)], check=True)
    install = [uv, "pip", "install", "-q", "--python", str(python), "--require-hashes", "-r", str(lock)]
    subprocess.run(install, check=True)
    return python


@contextmanager
def moto_server(python: Path, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Its URL on loopback, while the context lasts. `settings`: of its environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    main = "from moto.server import main; main()"
    process = subprocess.Popen(
        [str(python), "-c", main, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environment, **(settings or {})},
    )
    try:
        deadline = time.monotonic() + _PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError("moto's server does not listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
