"""The build context of a plan: Dockerfile, file trees with their modes, and what the build stage installs from.

Dockerfile
trees/<number>-<kind>/…     the plan's trees, as they stand under their targets
build/job.json              what `assemble.py` (mpack.env.assemble, with mpack.env.layout) installs
build/{assemble,layout}.py  and uv; with byte code, sources.json and compile_stage.py
build/wheels/               wheels that the stage cannot or shall not ask an index for
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
from pathlib import Path

from mpack.contents import Contents
from mpack.dockerfile.render import SHARED_TEMPLATE, UV_CACHE, WORK, Stage, render, secret_path, tree_folder
from mpack.env.index import IndexSettings
from mpack.env.install import assemble_job
from mpack.env.process import run_uv, short, uv_binary
from mpack.env.wheels import download_wheels, local_wheels
from mpack.errors import EnvironmentFault, InputError
from mpack.paths import cache_dir
from mpack.plan import VENV, ImagePlan
from mpack.spec import FileEntry, FileTree

#: Secrets of the stage that installs from an index: uv's settings as JSON, and files they name.
INDEX_SECRET = "mpack-index"  # noqa: S105 - a name
CA_SECRET = "mpack-ca"  # noqa: S105
CLIENT_CERT_SECRET = "mpack-client-cert"  # noqa: S105
_BLOCK = 1 << 20


def write_context(
    plan: ImagePlan,
    contents: Contents,
    directory: Path,
    *,
    index: IndexSettings,
    template: Path = SHARED_TEMPLATE,
    stage: Stage | None = None,
) -> None:
    """Fills an empty directory. Without secrets in `stage` all wheels are inside and nothing is asked for.

    Raises InputError artifact-changed, template-invalid or what downloading wheels raises; EnvironmentFault disk-full.
    """
    stage = stage or Stage()
    try:
        _write(directory / "Dockerfile", render(plan, template, stage).encode())
        for number, tree in enumerate(plan.trees):
            if tree.files:
                _write_tree(tree, contents, directory / tree_folder(number, tree))
        _write_build(plan, contents, directory / "build", index, online=INDEX_SECRET in stage.secrets)
        _write_compile(plan, directory / "compile")
        for path in directory.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)
    except OSError as error:
        raise EnvironmentFault(
            "disk-full",
            f"Writing the build context failed: {error.strerror or error} ({error.filename or directory}).",
            "Free some space, or name another directory (TMPDIR).",
        ) from error


def index_secrets(index: IndexSettings) -> dict[str, str | Path]:
    """What a build stage needs to install as this host does: secret id -> value, or the file that holds it."""
    settings = index.uv_env() | {"UV_PYTHON_DOWNLOADS": "never", "UV_CACHE_DIR": UV_CACHE, "NO_COLOR": "1"}
    secrets: dict[str, str | Path] = {}
    for key, name, path in (
        ("SSL_CERT_FILE", CA_SECRET, index.ca_bundle),
        ("SSL_CLIENT_CERT", CLIENT_CERT_SECRET, index.client_cert),
    ):
        if path is not None:
            secrets[name] = path
            settings[key] = secret_path(name)
    return {INDEX_SECRET: json.dumps(settings, sort_keys=True), **secrets}


def must_stage_wheels(plan: ImagePlan, index: IndexSettings) -> bool:
    """True where a build stage could not reach what this host can: directories, git, keyrings."""
    return bool(index.local_paths) or any(package.source == "vcs" for package in plan.environment.to_install)


def _write_tree(tree: FileTree, contents: Contents, folder: Path) -> None:
    for entry in tree.files:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        _place(entry, contents, target)


def _place(entry: FileEntry, contents: Contents, target: Path) -> None:
    """Copies one file and checks its hash on the way: it may have changed since it was hashed."""
    digest = hashlib.sha256()
    with contents.open(entry.sha256) as source, target.open("wb") as sink:
        while block := source.read(_BLOCK):
            digest.update(block)
            sink.write(block)
    if digest.hexdigest() != entry.sha256:
        raise InputError(
            "artifact-changed",
            f"The file {entry.path} changed while the image was being built.",
            "Build again when nothing writes to the artifact.",
        )
    target.chmod(entry.mode)


def _write_build(plan: ImagePlan, contents: Contents, folder: Path, index: IndexSettings, *, online: bool) -> None:
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    fetch = local_wheels if online else download_wheels
    files = fetch(plan.environment, wheels, index=index, contents=contents)
    job = assemble_job(
        plan.environment,
        plan.below,
        VENV,
        uv=f"{WORK}/uv",
        interpreter=plan.base.python,
        wheels=f"{WORK}/wheels",
        files=files,
        settings=secret_path(INDEX_SECRET) if online else None,
        options=index.uv_options() if online else (),
    )
    _write(folder / "job.json", _json(job))
    for name in ("assemble", "layout"):
        _write(folder / f"{name}.py", _source(f"mpack.env.{name}"))
    shutil.copyfile(uv_for(plan.platform), folder / "uv")
    (folder / "uv").chmod(0o755)
    for wheel in wheels.iterdir():
        wheel.chmod(0o644)


def _write_compile(plan: ImagePlan, folder: Path) -> None:
    if plan.bytecode is None or not plan.bytecode.sources:
        return
    job = {
        "command": [f"{VENV}/bin/python", "-S", "-B", "-m", "mpack_runtime.compile", *plan.bytecode.options],
        "environment": {**dict(plan.config.env), "PYTHONHASHSEED": "0"},
        "sources": list(plan.bytecode.sources),
    }
    _write(folder / "sources.json", _json(job))
    _write(folder / "compile_stage.py", _source("mpack.dockerfile.compile_stage"))


def uv_for(image_platform: str) -> Path:
    """A uv program that runs in a container of that platform: this host's own, or one fetched for the platform.

    Raises EnvironmentFault tool-missing when neither is at hand.
    """
    machine = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}.get(image_platform, "")
    if sys.platform == "linux" and platform.machine() == machine:
        return Path(uv_binary())
    return _fetched_uv(machine, image_platform)


def _fetched_uv(machine: str, image_platform: str) -> Path:
    from importlib import metadata

    version = metadata.version("uv")
    target = cache_dir() / "uv" / f"{version}-{machine or 'other'}"
    if not (target / "bin" / "uv").is_file():
        target.mkdir(parents=True, exist_ok=True)
        arguments = ["pip", "install", "--target", str(target), "--only-binary", ":all:", "--no-deps"]
        arguments += ["--python-platform", f"{machine}-manylinux_2_17", f"uv=={version}"]
        code, output = run_uv(arguments, IndexSettings.from_host(), target, {})
        if code:
            raise EnvironmentFault(
                "tool-missing",
                f"uv {version} for {image_platform} could not be fetched: {short(output)}",
                "Use --builder embedded, which needs no uv of the image's platform.",
            )
    return target / "bin" / "uv"


def _source(module: str) -> bytes:
    """The text of one of mpack's own modules."""
    from importlib.util import find_spec

    found = find_spec(module)
    assert found is not None and found.origin is not None
    return Path(found.origin).read_bytes()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)
