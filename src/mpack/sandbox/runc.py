"""runc as a sandbox, as root or rootless: no daemon, layers unpacked once, nothing left running."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mpack.builders import BuiltImage
from mpack.errors import EnvironmentFault
from mpack.oci.store import Store
from mpack.sandbox import Completed
from mpack.sandbox.bundle import Bundle, open_bundle
from mpack.sandbox.pipes import exchange
from mpack.sandbox.spec import Permit
from mpack.sandbox.trees import Trees


class RuncSandbox:
    """Runs images of the store."""

    name = "runc"

    def __init__(self, runc: str, store: Store, trees: Trees | None = None, permit: Permit | None = None) -> None:
        self._runc = runc
        self._store = store
        self._trees = trees or Trees.default()
        self._permit = permit or Permit()

    @contextmanager
    def open(self, image: BuiltImage) -> Iterator[RuncBox]:
        with open_bundle(self._runc, self._store, image, self._trees) as bundle:
            yield RuncBox(bundle, self._permit)


class RuncBox:
    """One image."""

    def __init__(self, bundle: Bundle, permit: Permit) -> None:
        self._bundle = bundle
        self._permit = permit

    def run(
        self, args: Sequence[str], *, entrypoint: Sequence[str] = (), stdin: bytes = b"", timeout: float = 600
    ) -> Completed:
        argv = [*(entrypoint or self._bundle.config.get("Entrypoint") or ()), *args]
        self._bundle.prepare(argv, self._permit)
        pipe = subprocess.PIPE
        with self._bundle.start(stdin=pipe, stdout=pipe, stderr=pipe) as (process, kill):
            done = exchange(process, kill, stdin, timeout)
        fault = self._bundle.fault() if done.returncode != 0 else None
        if fault is None:
            return Completed(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))
        if self._bundle.without_overlay():
            return self.run(args, entrypoint=entrypoint, stdin=stdin, timeout=timeout)
        raise runc_failed(fault)


def runc_failed(reason: str) -> EnvironmentFault:
    """The error for what runc would not do."""
    return EnvironmentFault(
        "engine-failed",
        f"runc could not start the sandbox: {reason}",
        "Run `mpack doctor`; as root or with a container engine this works more widely.",
    )
