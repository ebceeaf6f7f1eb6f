"""A plan as Dockerfile text, by a Jinja2 template that extends the shared `base.j2`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack.dockerfile.quoting import copy_form, env_name, exec_form, fold, image_name, quoted, word
from mpack.errors import InputError
from mpack.plan import VENV, ImagePlan
from mpack.records import dataclass
from mpack.spec import LAYER_KINDS, FileTree, HealthCheck

if TYPE_CHECKING:
    import jinja2

SHARED_TEMPLATE = Path(__file__).with_name("base.j2")
#: Where the build stage works; nothing of it is in the final image.
WORK = "/mpack-build"
UV_CACHE = "/mpack-build-cache"
#: The context's file that is unpacked at the root: the layer of conda packages, as the embedded builder has it.
CONDA_LAYER = "conda.tar.gz"
#: Kinds of trees that stand before the byte code, because it is compiled from them.
EARLY = LAYER_KINDS[: LAYER_KINDS.index("bytecode")]
#: PATH of a base that sets none.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Stage:
    """How a build gets what the plan does not hold.

    `base` is the name in FROM; with `rootfs` (a tar of the context) there is no FROM but scratch, and `base_settings`
    are the base's own instructions. `secrets` are the ids mounted while the environment is installed, `cache` keeps
    uv's cache in the engine.
    """

    base: str = ""
    rootfs: str | None = None
    base_settings: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    cache: bool = False

    @property
    def mounts(self) -> str:
        """The --mount options of the RUN that installs the environment."""
        options = [f"--mount=type=cache,id=mpack-uv,target={UV_CACHE}"] if self.cache else []
        options += [f"--mount=type=secret,id={name}" for name in self.secrets]
        return "".join(f"{option} " for option in options)


def secret_path(name: str) -> str:
    """Where a secret of that id stands while the environment is installed."""
    return f"/run/secrets/{name}"


def tree_folder(number: int, tree: FileTree) -> str:
    """The folder of a plan's tree in the build context."""
    return f"trees/{number}-{tree.kind}"


def render(plan: ImagePlan, template: Path = SHARED_TEMPLATE, stage: Stage | None = None) -> str:
    """The Dockerfile of a plan. Raises InputError template-invalid with the template's name and line."""
    import jinja2

    stage = stage or Stage()
    try:
        text = _environment(template).get_template(_name(template)).render(_variables(plan, stage))
    except jinja2.TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f"{template}, line {line}" if line else str(template)
        raise InputError(
            "template-invalid",
            f"The Dockerfile template {where} is wrong: {error.message or type(error).__name__}.",
            'A template starts with {% extends "base.j2" %}; `mpack export` shows what that one makes.',
        ) from error
    except OSError as error:
        raise InputError(
            "template-invalid", f"The Dockerfile template {template} cannot be read: {error.strerror}."
        ) from error
    # Not splitlines: to a Dockerfile's parser only a line feed ends a line, and a label may hold U+2028 or a form feed.
    lines = [line.rstrip(" \t\r") for line in text.split("\n")]
    kept = [line for number, line in enumerate(lines) if line or (number and lines[number - 1])]
    return fold("\n".join(kept).strip() + "\n")


def beyond_plan(plan: ImagePlan, template: Path) -> str | None:
    """The first instruction by which a template's Dockerfile differs from the shared one, or None if none does.

    Both are rendered for this plan and compared instruction by instruction, so comments, blank lines and the way a
    template is written do not count, and anything else does.
    """
    if template == SHARED_TEMPLATE or _adds_nothing(template):
        return None
    own, shared = instructions(render(plan, template)), instructions(render(plan))
    for ours, theirs in zip(own, shared, strict=False):
        if ours != theirs:
            return ours if ours not in shared else f"{theirs} (left out or moved)"
    if len(own) != len(shared):
        return own[len(shared)] if len(own) > len(shared) else f"{shared[len(own)]} (left out)"
    return None


def _adds_nothing(template: Path) -> bool:
    """True for a template that is the shared one by its one line: no need to render both."""
    try:
        return template.read_text("utf-8").strip() == '{% extends "base.j2" %}'
    except (OSError, ValueError):
        return False


def not_embeddable(template: Path, extra: str) -> InputError:
    """The refusal of a builder that cannot run what a template adds."""
    return InputError(
        "plan-not-embeddable",
        f"The Dockerfile template {template} adds a step that only an engine or buildah can run: {extra[:200]}",
        "Build with --builder docker or buildah, or leave the step out of the template.",
    )


def instructions(dockerfile: str) -> list[str]:
    """A Dockerfile's instructions, each on one line: continued lines joined, comments and blank lines dropped."""
    found: list[str] = []
    open_line = ""
    for line in dockerfile.split("\n"):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if line.rstrip().endswith("\\"):
            open_line += line.rstrip()[:-1]
            continue
        found.append((open_line + line).strip())
        open_line = ""
    return [*found, open_line.strip()] if open_line.strip() else found


def _name(template: Path) -> str:
    return "base.j2" if template == SHARED_TEMPLATE else f"own/{template.name}"


def _environment(template: Path) -> jinja2.Environment:
    import jinja2

    # "base.j2" is always the shared one; a template finds its neighbours by their plain names.
    own = jinja2.FileSystemLoader(template.parent)
    loaders = [
        jinja2.FunctionLoader(lambda name: SHARED_TEMPLATE.read_text("utf-8") if name == "base.j2" else None),
        jinja2.PrefixLoader({"own": own}),
        own,
    ]
    environment = jinja2.Environment(  # noqa: S701 - a Dockerfile is no HTML; values go through the filters below
        loader=jinja2.ChoiceLoader(loaders), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "quoted": quoted,
        "word": word,
        "exec": exec_form,
        "copy": copy_form,
        "env_name": env_name,
    }
    return environment


def _variables(plan: ImagePlan, stage: Stage) -> dict[str, Any]:
    """What a template can use."""
    trees = [
        {"kind": tree.kind, "target": tree.target, "paths": [tree_folder(number, tree) + "/", tree.target + "/"]}
        for number, tree in sorted(enumerate(plan.trees), key=lambda item: LAYER_KINDS.index(item[1].kind))
        if tree.files
    ]
    return {
        "title": re.sub(r"\s+", " ", f"{plan.model_name} {plan.model_version}: {plan.packager} by mpack"),
        "plan": plan,
        "config": plan.config,
        "base": image_name(stage.base or plan.base.reference),
        "rootfs": stage.rootfs,
        "base_settings": stage.base_settings,
        "python": plan.base.python,
        "venv": VENV,
        "programs": ":".join(plan.programs),
        "conda": CONDA_LAYER if plan.environment.conda is not None else None,
        "default_path": _DEFAULT_PATH,
        "work": WORK,
        "mounts": stage.mounts,
        "bytecode": plan.bytecode is not None and bool(plan.bytecode.sources),
        "early_trees": [tree for tree in trees if tree["kind"] in EARLY],
        "late_trees": [tree for tree in trees if tree["kind"] not in EARLY],
        "healthcheck": _healthcheck(plan.config.healthcheck),
    }


def _healthcheck(check: HealthCheck | None) -> str:
    if check is None:
        return "NONE"
    times = f"--interval={check.interval:g}s --timeout={check.timeout:g}s --start-period={check.start_period:g}s"
    return f"{times} --retries={check.retries} CMD {exec_form(check.command)}"
