"""`mpack run`: an image as a program of this machine, for as long as the command lasts.

An engine starts it (`mpack.run.containers`, `mpack.run.bundles`) as one process in the foreground; `mpack.run.follow`
waits for it and ends it. Whoever runs here: no capability, a read-only root, a scratch /tmp.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mpack.builders import BuiltImage
from mpack.errors import EnvironmentFault
from mpack.sandbox.spec import Mount


@dataclass(frozen=True)
class Wish:
    """What is to run. `config` is the image's `config` object; `arguments` stand for its command, if there are any.

    `ports` maps the container's TCP ports to this machine's, the one of HTTP first; empty: nothing is served.
    """

    image: BuiltImage
    config: Mapping[str, Any]
    arguments: tuple[str, ...] = ()
    ports: Mapping[int, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()

    @property
    def starts_as_root(self) -> bool:
        """True if the image leaves it to its program whom to become."""
        return str(self.config.get("User") or "0").partition(":")[0] in ("", "0", "root")


@dataclass(frozen=True)
class Started:
    """A container that runs. `process` passes SIGTERM on to it and ends with its exit code; `kill` ends it at once,
    and is no error when it has ended; `fault` says, once it has ended, why it could not be started, else None."""

    process: subprocess.Popen[bytes]
    kill: Callable[[], None]
    fault: Callable[[], EnvironmentFault | None]
