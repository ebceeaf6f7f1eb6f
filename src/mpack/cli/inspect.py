"""`mpack inspect ARTIFACT`: what is in it, what can package it, what is dangerous in it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpack.cli.options import artifact_options

if TYPE_CHECKING:
    from mpack.artifact.limits import Limits
    from mpack.artifact.model import Artifact, Trust
    from mpack.errors import MpackError

_LEVELS = ("danger", "warning", "note")
_FILES_SHOWN = 20


@click.command("inspect")
@artifact_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(artifact: str, as_json: bool, **values: Any) -> None:
    """Show what is in ARTIFACT, what can package it and what is dangerous in it.

    ARTIFACT is a zip, a tar, a directory, a model file or an address (https, s3, gs, abfs, models, runs), perhaps
    with @sha256:HEX behind it. A pickle that `mpack build` would refuse is shown all the same, as a danger, and the
    exit code is that of the refusal.
    """
    from mpack.address import split_digest
    from mpack.artifact.limits import Limits, parse_size
    from mpack.artifact.model import Trust
    from mpack.artifact.remote import held
    from mpack.cli.report import report_error

    location, digest = split_digest(artifact)
    limits = Limits(total=parse_size(values["max_size"]), entries=values["max_entries"], ratio=values["max_ratio"])
    trust = Trust(frozenset(values["trust_module"]), values["trust_pickle"])
    with (
        held(location),
        tempfile.TemporaryDirectory(prefix="mpack-inspect-", ignore_cleanup_errors=True) as scratch,
    ):
        read, refusal = read_for_show(location, limits, trust, Path(scratch), digest)
        shown = describe(read)
    if as_json:
        click.echo(json.dumps({**shown, **({"error": refusal.to_json()} if refusal else {})}, ensure_ascii=False))
    else:
        click.echo("\n".join(text(shown)))
    if refusal is not None:
        debug = bool((click.get_current_context().obj or {}).get("debug"))
        click.get_current_context().exit(report_error(refusal, debug=debug, as_json=False))


def read_for_show(
    location: str, limits: Limits, trust: Trust, scratch: Path, digest: str | None = None
) -> tuple[Artifact, MpackError | None]:
    """The artifact, and the error that a build would end with if its pickles may not be loaded."""
    from mpack.artifact.reader import read_artifact
    from mpack.errors import MpackError
    from mpack.progress import Progress
    from mpack.stores.model import Access

    access = Access(progress=Progress(1))
    read = partial(read_artifact, location, limits=limits, scratch=scratch, digest=digest, access=access)
    try:
        return read(trust=trust), None
    except MpackError as error:
        if error.code != "pickle-refused":
            raise
        refusal = error
    # Read once more without judging, so that the dangers of every pickle are shown and not only those of the first.
    artifact = read(trust=replace(trust, pickle=True))
    return replace(artifact, trust=trust), refusal


def describe(artifact: Artifact) -> dict[str, Any]:
    """What `--json` prints; the text is made of it."""
    from mpack.plugins import load_packagers

    description = artifact.description
    packagers, faults = load_packagers()
    sample = description.sample
    findings = sorted(description.findings, key=lambda finding: _LEVELS.index(finding.level))
    return {
        "location": artifact.location,
        "digest": artifact.digest,
        "origin": artifact.origin.to_json() if artifact.origin else None,
        "format": description.format,
        "flavor": description.flavor,
        "name": artifact.name,
        "version": artifact.version,
        "python": description.python,
        "requirements": [item.to_json() for item in description.requirements],
        "conda": description.conda.to_json() if description.conda else None,
        "system_packages": list(artifact.system_packages),
        "base": artifact.base,
        "loader": {
            "kind": description.loader.kind,
            "path": description.loader.path,
            "options": dict(description.loader.options),
        },
        "brings_code": description.brings_code,
        "signature": description.signature.to_json() if description.signature else None,
        "sample": {
            "request": sample.request,
            "input_file": sample.input_file,
            "expected": sample.expected,
            "output_file": sample.output_file,
            "tolerance": sample.tolerance,
        }
        if sample
        else None,
        "trust": {"modules": sorted(artifact.trust.modules), "pickle": artifact.trust.pickle},
        "findings": [{"level": item.level, "message": item.message, "path": item.path} for item in findings],
        "packagers": [
            {"name": name, "accepts": (reason := packager.accepts(artifact)) is None, "reason": reason}
            for name, packager in packagers.items()
        ],
        "broken_plugins": [fault.message for fault in faults],
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256, "executable": file.executable}
            for file in artifact.files
        ],
    }


def text(shown: dict[str, Any]) -> list[str]:
    """The lines that a person reads, dangers first."""
    lines = [f"{item['level'].upper():<8} {_of(item)}" for item in shown["findings"]]
    lines += [""] if lines else []
    rows = [
        ("model", f"{shown['name']} {shown['version']}"),
        ("format", shown["format"] + (f" ({shown['flavor']})" if shown["flavor"] != shown["format"] else "")),
        ("python", shown["python"] or "not recorded"),
        ("requires", ", ".join(item["line"] for item in shown["requirements"]) or "nothing recorded"),
        ("conda", ", ".join(shown["conda"]["specs"]) if shown["conda"] else ""),
        ("system", ", ".join(shown["system_packages"])),
        ("base", shown["base"] or ""),
        ("own code", "yes: it runs in the image" if shown["brings_code"] else "no"),
        *_signature_rows(shown["signature"]),
        ("sample", _sample(shown["sample"])),
        ("trusts", ", ".join([*shown["trust"]["modules"], *(["every pickle"] if shown["trust"]["pickle"] else [])])),
        ("digest", shown["digest"]),
        *(("packager", _packager(item)) for item in shown["packagers"]),
        *(("broken", message) for message in shown["broken_plugins"]),
    ]
    lines += [f"{key:<9} {value}" for key, value in rows if value]
    files = shown["files"]
    lines += ["", f"{len(files)} file{'s' * (len(files) != 1)}, {sum(file['size'] for file in files):,} bytes"]
    lines += [f"{file['size']:>14,}  {file['path']}" for file in files[:_FILES_SHOWN]]
    if len(files) > _FILES_SHOWN:
        lines.append(f"{'':>14}  and {len(files) - _FILES_SHOWN} more (--json lists all)")
    return lines


def _of(finding: dict[str, Any]) -> str:
    return f"{finding['path']}: {finding['message']}" if finding["path"] else str(finding["message"])


def _packager(item: dict[str, Any]) -> str:
    return f"{item['name']}" + ("" if item["accepts"] else f" does not take it: {item['reason']}")


def _sample(sample: dict[str, Any] | None) -> str:
    if sample is None:
        return "none: the image's self-check can only load the model"
    asked = "a request" if sample["input_file"] is None else sample["input_file"]
    if sample["output_file"] is not None:
        return f"{asked}, compared with {sample['output_file']}"
    return f"{asked}, {'its answer unknown' if sample['expected'] is None else 'with the expected answer'}"


def _signature_rows(signature: dict[str, Any] | None) -> list[tuple[str, str]]:
    if signature is None:
        return [("signature", "not recorded")]
    rows = []
    for side in ("inputs", "outputs", "params"):
        if fields := ", ".join(_field(field) for field in signature[side]):
            rows.append((side, fields))
    return rows


def _field(field: dict[str, Any]) -> str:
    name = "(unnamed)" if field["name"] is None else field["name"]
    if field.get("kind") == "tensor":
        return f"{name}: {field['dtype']}{field['shape']}"
    if field.get("kind") == "column":
        return f"{name}: {field['type']}{'' if field['required'] else ' (optional)'}"
    return f"{name}: {field['type']} = {field['default']!r}"
