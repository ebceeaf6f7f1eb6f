"""What `mpack base suggest` prints, and the file that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mpack.suggest import Skipped, Suggestion


def run_suggest(artifacts: tuple[str, ...], output: Path | None, as_json: bool, values: dict[str, Any]) -> int:
    """0, or 1 where an artifact was skipped. Raises InputError artifact-missing where none could be read."""
    from mpack.cli.options import build_request
    from mpack.errors import InputError
    from mpack.pipeline import Workshop
    from mpack.progress import Progress
    from mpack.suggest import read_members, requirements_text, suggest

    unset: dict[str, Any] = {"arguments": (), "lock": None}
    unset |= dict.fromkeys(("update_lock", "no_trim", "keep_mlflow", "gpu", "allow_vcs"), False)
    request = build_request(artifact=artifacts[0], **unset, **values)
    progress, workshop = Progress(len(artifacts) + 2), Workshop.of_this_machine()
    members, left = read_members(request, artifacts, workshop, progress)
    skipped = [item for item in left if not item.passed_over]
    for item in skipped:
        progress.warn(f"skipped {item.location}: {item.error.message}")
    if others := [item.location for item in left if item.passed_over]:
        progress.say(f"passed over, for they are no artifacts: {', '.join(others)}")
    if not members:
        raise InputError("artifact-missing", "No artifact could be read.", "Name artifacts, or directories of them.")
    found = suggest(members, request.base, workshop, progress)
    if as_json:
        click.echo(json.dumps(_as_json(found, skipped)))
    elif not found:
        progress.say(f"no two of the {len(members)} artifacts share a package: a cache would save nothing")
    else:
        for line in _report(found, output):
            click.echo(line, err=True)
    if found and output is not None:
        _write(output, requirements_text(found[0]))
    if found and not as_json:
        click.echo(str(output) if output is not None else requirements_text(found[0]), nl=output is not None)
    return 1 if skipped else 0


def _as_json(found: list[Suggestion], skipped: list[Skipped]) -> dict[str, Any]:
    return {
        "suggestion": found[0].to_json() if found else None,
        "second": found[1].to_json() if len(found) > 1 else None,
        "skipped": [{"artifact": item.location, "error": item.error.to_json()} for item in skipped],
    }


def _report(found: list[Suggestion], output: Path | None) -> list[str]:
    first = found[0].to_json()
    lines = [f"{'package':32} {'artifacts':>9} {'MB':>8} {'saves MB':>9}"]
    for item in first["packages"]:
        name, size = f"{item['name']} {item['version']}", (item["size"] or 0) / 1e6
        lines.append(f"{name:32} {item['artifacts']:9} {size:8.1f} {size * item['artifacts']:9.1f}")
    count, installed, cache = len(first["artifacts"]), first["installed"] / 1e6, first["cache"] / 1e6
    lines.append(f"{count} artifacts for Python {first['python']} install {installed:.0f} MB of wheels in all")
    lines.append(f"on this cache, one layer of {cache:.0f} MB of wheels, {first['saved'] / 1e6:.0f} MB less")
    if first["brought"]:
        lines.append(f"{first['brought'] / 1e6:.1f} MB of the cache no artifact is locked to")
    for item in first["artifacts"]:
        lines.append(f"  {item['artifact']}: {item['saved'] / 1e6:.1f} MB less a build")
    if len(found) > 1:
        second = found[1].to_json()
        names = ", ".join(f"{item['name']} {item['version']}" for item in second["packages"][:5])
        lines.append(
            f"the second best, for Python {second['python']}, saves {second['saved'] / 1e6:.0f} MB: {names}, …"
        )
    kind = " --server triton" if first["base_kind"] == "triton" else ""
    kind += "".join(f" --package {name}" for name in first["system_packages"])
    lines.append(f"make it: mpack base build --deps {output or 'FILE'} --python {first['python']}{kind} -t NAME:TAG")
    return lines


def _write(path: Path, text: str) -> None:
    from mpack.errors import disk_fault
    from mpack.oci.files import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise disk_fault(error, f"Writing {path}", "Name another with -o FILE.") from error
