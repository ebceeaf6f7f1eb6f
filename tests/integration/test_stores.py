"""A build of an artifact at an address: recorded, built again from there, and no secret of the address anywhere."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration]
SECRET = "hunter2-s3cret"


class Quiet(SimpleHTTPRequestHandler):
    """A web server without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def site(model: Path) -> Iterator[str]:
    """The address of the directory that has the model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(model.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_build(
    site: str, model: Path, mpack: Any, base_home: Callable[..., Path], echo: dict[str, str], tmp_path: Path
) -> None:
    """`--json` and the provenance tell address, version and digest; a rebuild goes there; another digest is refused."""
    home = base_home("stores")
    place = os.pathsep.join([echo["PYTHONPATH"], *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"MPACK_HOME": str(home), "PYTHONPATH": place, "NO_PROXY": "127.0.0.1"}
    sha256, public = hashlib.sha256(model.read_bytes()).hexdigest(), f"{site}/{model.name}"
    address = f"{site.replace('://', f'://user:{SECRET}@')}/{model.name}?token={SECRET}"
    options = ("-p", "echo", "-o", f"oci:{tmp_path / 'image'}", "--no-verify", "-t", "stores:1")
    done = mpack("build", f"{address}@sha256:{sha256}", *options, "--json", **settings)
    told = json.loads(done.stdout)
    assert told["artifact"]["uri"] == public and told["artifact"]["sha256"] == sha256 and told["artifact"]["version"]
    [statement] = (tmp_path / "image").rglob("*provenance*")
    definition = json.loads(statement.read_text())["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["artifact"] == public
    entry = {"uri": public, "digest": {"sha256": sha256}, "annotations": {"version": told["artifact"]["version"]}}
    assert entry in definition["resolvedDependencies"]
    again = mpack("rebuild", told["id"], **settings)
    refused = mpack("build", f"{address}@sha256:{'0' * 64}", *options, code=1, **settings)
    assert "has the SHA-256" in refused.stderr
    for text in (done.stdout, done.stderr, again.stdout, again.stderr, refused.stderr):
        assert SECRET not in text
    for path in [*home.rglob("*"), *tmp_path.rglob("*")]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
