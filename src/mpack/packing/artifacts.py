"""Where the artifact is that a packaging names."""

from __future__ import annotations

from pathlib import Path

from mpack.errors import InputError

#: Where ODAHU's local training leaves its artifacts.
TRAINED = Path("~/.odahuflow/training_output")


def local_artifact(name: str, directory: Path | None) -> str:
    """The path of the artifact `name` in a directory (default: the working directory, else ODAHU's own): as it is
    named, without one trailing .zip, or with one. Raises InputError artifact-missing that says where it was looked for.
    """
    names = [name, name.removesuffix(".zip") if name.endswith(".zip") else f"{name}.zip"]
    places = [directory] if directory is not None else [Path(), TRAINED.expanduser()]
    tried = [place / item for place in places for item in names]
    for path in tried:
        if path.exists():
            return str(path)
    raise InputError(
        "artifact-missing",
        f"There is no artifact {name}: neither {', '.join(map(str, tried[:-1]))} nor {tried[-1]} exists.",
        "Give its directory with --artifact-path, or another name with -a.",
    )
