"""Dependency-cache images: a base with the packages of a conda.yaml or requirements.txt in its site directory.

The runtime's own requirements are locked with them, so a model with the same dependencies adds no dependency layer.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpack.env.index import IndexSettings
from mpack.env.install import install
from mpack.env.lock import lock_environment
from mpack.errors import InputError
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage
from mpack.oci.layer import Directory, Entry, directory_entries
from mpack.oci.rootfs import Files, read_files
from mpack.oci.store import Store, with_tag
from mpack.plan import BaseImage, Environment
from mpack.serving import runtime_requirements
from mpack.spec import BaseWish, Requirement

if TYPE_CHECKING:
    from mpack.bases.bases import Bases

#: Label of dependency-cache images: the digest of the environment in them.
DEPENDENCIES_LABEL = "dev.mpack.base.dependencies"
_CONDA_SUFFIXES = (".yaml", ".yml")
#: The extras of the runtime distribution whose requirements are put into every cache.
_RUNTIME_EXTRAS = ("rest", "cli")
_WHITEOUT = ".wh."


@dataclass(frozen=True)
class Dependencies:
    """What a dependency file asks for: requirements and, from a conda.yaml, the Python version ("3.11.7")."""

    python: str | None
    requirements: tuple[Requirement, ...]
    notes: tuple[str, ...] = ()


def read_dependencies(path: Path) -> Dependencies:
    """Reads a conda.yaml or requirements.txt. Raises InputError requirements-invalid or conda-untranslatable."""
    from mpack.artifact.conda import parse_conda, translated
    from mpack.artifact.requirements import parse_requirements

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError("requirements-invalid", f"{path} cannot be read: {reason}.") from error
    if path.suffix.lower() in _CONDA_SUFFIXES:
        conda = translated(parse_conda(text, path.name), path.name)
        return Dependencies(conda.python, tuple(conda.requirements), tuple(item.message for item in conda.findings))
    requirements, findings = parse_requirements(text, path.name, None, "")
    return Dependencies(None, tuple(requirements), tuple(item.message for item in findings))


def build_dependency_image(
    store: Store,
    bases: Bases,
    index: IndexSettings,
    dependencies: Dependencies,
    *,
    name: str,
    python: str | None,
    platform: str,
    wish: BaseWish,
    say: Callable[[str], None],
) -> OciImage:
    """Locks, installs and lists the image under `name`. `python` is the user's consent to another minor version.

    Raises what `Bases.pick`, `lock_environment` and `install` raise.
    """
    base, environment = resolve_dependencies(
        bases, index, dependencies, python=python, platform=platform, wish=wish, say=say
    )
    with store.lease():
        image = _add_packages(store, bases.image(base), base, environment, index, say)
        store.add_image(image, [with_tag(name)], role="base")
    return image


def resolve_dependencies(
    bases: Bases,
    index: IndexSettings,
    dependencies: Dependencies,
    *,
    python: str | None,
    platform: str,
    wish: BaseWish,
    say: Callable[[str], None],
) -> tuple[BaseImage, Environment]:
    """What a dependency-cache image is made from, and the packages that it has beside that. Raises as
    `build_dependency_image`."""
    own = ".".join(dependencies.python.split(".")[:2]) if dependencies.python else None
    base = bases.pick(python or own, platform, wish)
    if not base.site_dirs:
        raise InputError(
            "base-unsuitable",
            f"The Python of {base.reference} has no site directory, so no packages can be put into it.",
            "Give another base with --base REF.",
        )
    runtime = {item.line: item for extra in _RUNTIME_EXTRAS for item in runtime_requirements(extra)}
    say(f"resolving {len(dependencies.requirements)} requirements and the runtime's for Python {base.minor}")
    environment = lock_environment(
        (*dependencies.requirements, *runtime.values()),
        python=base.minor,
        platform=platform,
        index=index,
        provided=bases.packages(base),
        relax=python is not None and own is not None and own != base.minor,
    )
    for pin in environment.relaxed:
        say(f"relaxed {pin}")
    return base, environment


def _add_packages(
    store: Store,
    below: OciImage,
    base: BaseImage,
    environment: Environment,
    index: IndexSettings,
    say: Callable[[str], None],
) -> OciImage:
    labels = {
        **below.labels,
        "org.opencontainers.image.base.name": base.reference,
        "org.opencontainers.image.base.digest": base.digest,
        DEPENDENCIES_LABEL: environment.digest,
    }
    runtime = {**below.runtime, "Labels": dict(sorted(labels.items()))}
    if not environment.to_install:
        say(f"{base.reference} has every package already")
        return append_layers(store, below, (), runtime=runtime)
    say(f"installing {len(environment.to_install)} packages")
    site = base.site_dirs[0]
    with store.scratch() as scratch:
        install(environment, base, scratch / "site", "site", index=index)
        entries = directory_entries(scratch / "site", site)
        files = read_files(below, lambda path: path.startswith(f"{site}/") and path.endswith(".dist-info/RECORD"))
        entries += hide_replaced(files, site, {package.name for package in environment.to_install}, entries)
        directories = {
            path: Directory(node.mode, node.uid, node.gid) for path, node in files.items() if node.kind == "directory"
        }
        layer = store.write_layer(entries, kind="dependencies", existing=directories)
    # In an image made from this one it is part of the base.
    return append_layers(store, below, (replace(layer, kind="base"),), runtime=runtime)


def hide_replaced(files: Files, site: str, names: set[str], entries: list[Entry]) -> list[Entry]:
    """Whiteouts for the files of distributions in `site` that are replaced by another version, but for those that the
    new version brings as well. `names` are canonical."""
    from packaging.utils import canonicalize_name

    fresh = {entry.path for entry in entries}
    hidden: dict[str, Entry] = {}
    for record in [path for path in files if path.startswith(f"{site}/") and path.endswith(".dist-info/RECORD")]:
        directory = record.rpartition("/")[0]
        if canonicalize_name(directory.rpartition("/")[2].partition("-")[0]) not in names or directory in hidden:
            continue
        for path in (directory, *_recorded(files.read(record) or b"", site)):
            if path in fresh or path not in files or path.startswith(f"{directory}/"):
                continue
            parent, _, name = path.rpartition("/")
            hidden[path] = Entry(f"{parent}/{_WHITEOUT}{name}", source=b"")
    return [entry for path, entry in hidden.items() if not _is_new(path, fresh)]


def _recorded(record: bytes, site: str) -> Iterator[str]:
    """Absolute paths of a RECORD that lie in the site directory (scripts elsewhere stay: nothing calls them)."""
    for row in csv.reader(record.decode("utf-8", "replace").splitlines()):
        if row and not row[0].startswith(("/", "..")):
            yield f"{site}/{row[0]}"


def _is_new(path: str, fresh: set[str]) -> bool:
    """True if the layer writes below a path: hiding it would be against its own content."""
    return any(item.startswith(f"{path}/") for item in fresh)
