"""The docker builder: a plan as a Dockerfile, built by the engine's BuildKit. Nothing is mounted from this host."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack.builders import BuiltImage, BuiltLayer
from mpack.builders.conda import put_conda_layer
from mpack.builders.kinds import layer_kinds
from mpack.contents import Contents
from mpack.dockerfile import SHARED_TEMPLATE, Stage, beyond_plan
from mpack.dockerfile.context import index_secrets, must_stage_wheels, write_context
from mpack.env.index import IndexSettings
from mpack.env.install import install_error
from mpack.errors import EnvironmentFault
from mpack.plan import BaseImage, ImagePlan

if TYPE_CHECKING:
    from mpack.bases import Bases
    from mpack.engine import Docker
    from mpack.oci.store import Store

#: Local name of base images: 20.10 engines cannot build FROM the digest of an image that no registry gave them.
BASE_NAME = "mpack-build-base"
#: Predefined build arguments: docker keeps them out of the image's history.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
#: "#7 0.123 text": what a program in a build step wrote, in BuildKit's plain progress.
_OUTPUT = re.compile(r"^#\d+ \d+\.\d+ ")
#: What else of that progress tells a user something: the steps, those taken from the cache, and errors.
_WORTH_TELLING = re.compile(r"^#\d+ (\[(?!internal)|CACHED|exporting to|ERROR)")
#: A step of the last stage (it has no name, so BuildKit numbers it), and a step that was taken from the cache.
_LAST_STAGE = re.compile(r"^#(\d+) \[stage-\d+ +(\d+)/\d+\]")
_CACHED = re.compile(r"^#(\d+) CACHED")


def to_stderr(line: str) -> None:
    """Prints one line of progress."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class DockerBuilder:
    """Builds in a docker engine, local or remote. The image stays there under its id, without a name."""

    name = "docker"

    def __init__(
        self,
        docker: Docker,
        store: Store,
        bases: Bases,
        index: IndexSettings,
        template: Path = SHARED_TEMPLATE,
        report: Callable[[str], None] = to_stderr,
    ) -> None:
        self._docker = docker
        self._store = store
        self._bases = bases
        self._index = index
        self._template = template
        self._report = report
        #: Images of plans without byte code that this built: (plan digest, image id).
        self._drafts: dict[str, str] = {}

    def build(self, plan: ImagePlan, contents: Contents) -> BuiltImage:
        """The plan's image.

        Raises EnvironmentFault (engine-unavailable, engine-failed, index-unreachable, disk-full) or InputError
        (template-invalid, requirements-unavailable, lock-mismatch).
        """
        offline = must_stage_wheels(plan, self._index)
        secrets = {} if offline else index_secrets(self._index)
        base, loaded = self._bring_base(plan.base)
        steps = _Steps(self._report)
        try:
            with tempfile.TemporaryDirectory(prefix="mpack-context-") as scratch:
                write_context(
                    plan,
                    contents,
                    Path(scratch),
                    index=self._index,
                    template=self._template,
                    stage=Stage(base=base, secrets=tuple(secrets), cache=not offline),
                )
                put_conda_layer(self._store, plan, Path(scratch))
                image_id = self._docker.build(
                    Path(scratch),
                    platform=plan.platform,
                    secrets=secrets,
                    build_args=self._proxies(),
                    options=[f"--network={self._network(plan, offline)}"],
                    on_line=steps,
                    redact=self._index.redact,
                )
        except BaseException as error:
            if loaded:
                self._docker.remove(base)
            if isinstance(error, EnvironmentFault) and "assemble.py" in error.message:
                what = f"Installing {len(plan.environment.to_install)} packages in the engine"
                raise install_error(_own_lines(error.message), what) from error
            raise
        self._forget_draft(plan, image_id)
        return self._built(plan, image_id, base, steps.cached)

    def _forget_draft(self, plan: ImagePlan, image_id: str) -> None:
        """The same plan without byte code was built when its modules were learnt; the whole image takes its place.

        (Where there was nothing to compile, the two are one image.)
        """
        if plan.bytecode is None:
            self._drafts[plan.digest] = image_id
        elif (draft := self._drafts.pop(replace(plan, bytecode=None).digest, image_id)) != image_id:
            self._docker.remove_untagged(draft)

    def _bring_base(self, base: BaseImage) -> tuple[str, bool]:
        """A local name of the base in the engine, and whether it had to be loaded for this."""
        if self._docker.exists(base.digest):
            name = f"{BASE_NAME}:{base.digest.removeprefix('sha256:')[:32]}"
            self._docker.tag(base.digest, name)
            return name, False
        image = self._bases.image(base)
        name = f"{BASE_NAME}:{image.id.removeprefix('sha256:')[:32]}"
        if self._docker.exists(image.id):
            self._docker.tag(image.id, name)
            return name, False
        if self._docker.exists(name):
            return name, False
        from mpack.oci.archive import Pieces, docker_archive

        self._report(f"loading the base image {base.reference} into the engine")
        self._docker.load(Pieces(docker_archive(image, [name])))  # type: ignore[arg-type]
        return name, True

    def _network(self, plan: ImagePlan, offline: bool) -> str:
        # The host's network: an index or a proxy on it is then reached as from the host. uv only unpacks wheels there.
        return "none" if offline and beyond_plan(plan, self._template) is None else "host"

    def _proxies(self) -> dict[str, str]:
        found = dict(self._index.proxies)
        return {name: found[name] for name in _PROXIES if name in found}

    def _built(self, plan: ImagePlan, image_id: str, base: str, cached: frozenset[int]) -> BuiltImage:
        image, below = self._docker.inspect(image_id), self._docker.inspect(base)
        if image is None:
            raise EnvironmentFault(
                "engine-failed",
                f"The engine built the image {image_id} and does not have it any more.",
                "Was it pruned meanwhile? Build again.",
            )
        diff_ids = _diff_ids(image)
        count = len(_diff_ids(below or {}))
        kinds = layer_kinds(plan, self._template, len(diff_ids), count)
        layers = tuple(
            # Each step of the last stage is one layer, in order; BuildKit counts them from 1.
            BuiltLayer(diff_id, kind, cached=number < count or number - count + 1 in cached)
            for number, (diff_id, kind) in enumerate(zip(diff_ids, kinds, strict=True))
        )
        return BuiltImage(image_id, plan.platform, self.name, "docker", layers, int(image.get("Size", 0)))


class _Steps:
    """Takes BuildKit's progress: passes on what is worth telling, and learns which steps came from the cache."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._last = ""
        self._numbers: dict[str, int] = {}
        self._cached: set[str] = set()

    @property
    def cached(self) -> frozenset[int]:
        """Numbers of the last stage's steps that were taken from the cache."""
        return frozenset(number for vertex, number in self._numbers.items() if vertex in self._cached)

    def __call__(self, line: str) -> None:
        if step := _LAST_STAGE.match(line):
            self._numbers[step[1]] = int(step[2])
        if cached := _CACHED.match(line):
            self._cached.add(cached[1])
        if line != self._last and (_WORTH_TELLING.match(line) or _OUTPUT.match(line)):
            self._report(line)
            self._last = line


def _diff_ids(inspected: dict[str, Any]) -> list[str]:
    return list((inspected.get("RootFS") or {}).get("Layers") or [])


def _own_lines(message: str) -> str:
    """What a program in the build stage wrote, without BuildKit's own lines and prefixes."""
    lines = [_OUTPUT.sub("", line) for line in message.splitlines() if _OUTPUT.match(line)]
    return "\n".join(lines) or message
