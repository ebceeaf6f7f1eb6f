"""A packager for tests that build very often: two wheels of the test's own, byte code, and a model of any files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from mpack.contents import Contents, sha256_bytes
from mpack.packager import Arguments
from mpack.plan import VENV
from mpack.serving import model_tree, runtime_tree, serving_env, with_model_labels
from mpack.spec import BaseWish, FileEntry, FileTree, ImageConfig, ImageSpec, Requirement

#: As the runtime's self-check: imports what is in the image, and says which of these modules have byte code to gain.
PROGRAM = b"""
import json, platform, sys
from pathlib import Path

import big, small

assert len(Path(big.__file__).with_name("data.txt").read_bytes()) == big.SIZE
assert any(Path("/opt/mpack/model").rglob("*.bin"))
modules = sorted(module.__file__ for module in (json, big, small, sys.modules["small.part"]))
found = {"status": "passed", "against": "load", "max_rel_diff": None, "rows": 0, "reason": None}
print(json.dumps({**found, "python": platform.python_version(), "modules": modules}))
"""


class Small:
    """The packager of entry point `small`."""

    name: ClassVar[str] = "small"
    summary: ClassVar[str] = "for tests alone"
    arguments: ClassVar[type[Arguments]] = Arguments
    targets: ClassVar[tuple[str, ...]] = ("store", "registry")
    template: ClassVar[Path] = Path(__file__).with_name("Dockerfile.j2")

    def accepts(self, artifact: Any) -> str | None:
        return None

    def spec(self, artifact: Any, arguments: Arguments) -> ImageSpec:
        runtime, sources = runtime_tree()
        models, contents = model_tree(artifact)
        digest = sha256_bytes(PROGRAM)
        config = ImageConfig(env=serving_env({}), entrypoint=(f"{VENV}/bin/python", "/opt/mpack/program.py"))
        return ImageSpec(
            packager=self.name,
            model_name=artifact.name,
            model_version=artifact.version,
            python="3.11",
            requirements=tuple(Requirement(line, "runtime") for line in ("big", "small")),
            base=BaseWish(),
            trees=(runtime, models, FileTree("config", "/opt/mpack", (FileEntry("program.py", len(PROGRAM), digest),))),
            config=with_model_labels(config, artifact, self.name),
            contents=sources | contents | Contents({digest: PROGRAM}),
        )
