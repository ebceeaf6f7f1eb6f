"""Faults of model configurations that a build finds before Triton would: all of them at once, with file, line, field.

What the server itself (2.51, Python backend and ensembles, tried one by one) makes of them:

| fault | the server |
| --- | --- |
| two inputs or two outputs of one name | READY |
| no inputs, no outputs | READY |
| dynamic_batching, max_batch_size 0 | READY, ignored |
| platform that disagrees with backend, or is unknown | READY, shown as platform |
| instance_group count 0 or -1, two groups of one name | READY |
| one of version_policy.specific's versions missing | READY without it |
| a parameter given twice | READY, the last counts |
| optional or control inputs of any name | READY |
| an ensemble that batches around a model that does not | READY; every request: "unexpected shape" |
| name other than the directory, negative max_batch_size, preferred size too large | "Poll failed", not in the index |
| faults of an ensemble's own fields; a circle of steps | "Poll failed", for a circle: "tensor is unused" |
| dims missing, 0, below -1; no data_type; no name; reshape of another size; no label file | UNAVAILABLE |
| no model.py in the version directory, or no default_model_filename | not ready after 30 s, and no error |
| unknown backend; model.onnx beside model.py without backend | "unable to find backend library …" |
| model_warmup for an input that is none | "expected 1 inputs but got 0" |
| a step of an ensemble without model_version | "required version 0 is not loaded" |
| an ensemble without platform: "ensemble" | "Could not determine backend" |

An input and an output of the same name are fine.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from mpack.artifact.model import Finding
from mpack.artifact.triton_layout import PLATFORMS
from mpack.errors import InputError

from .backends import COMPLETING, FILES, KNOWN
from .check_ensemble import check_ensemble
from .check_tensors import check_tensors
from .faults import MAX_FAULTS, Fault, Report, Subject, listed
from .positions import Path

_HINT = "Correct config.pbtxt."

__all__ = ["Fault", "Subject", "check_repository", "faults"]


def check_repository(subjects: Sequence[Subject]) -> list[Finding]:
    """Warnings and notes about the models' configurations.

    Raises InputError artifact-invalid that lists every fault of every model.
    """
    found = faults(subjects)
    wrong = [fault for fault in found if fault.level == "fault"]
    if len(wrong) == 1:
        raise InputError("artifact-invalid", str(wrong[0]), wrong[0].hint or _HINT)
    if wrong:
        lines = [f"{fault}{' ' + fault.hint if fault.hint else ''}" for fault in wrong[:MAX_FAULTS]]
        more = [f"and {len(wrong) - MAX_FAULTS} more"] if len(wrong) > MAX_FAULTS else []
        reason = "\n  ".join([f"{len(wrong)} faults in the configuration of the models:", *lines, *more])
        raise InputError("artifact-invalid", reason, _HINT)
    return [Finding(item.level, f"{item.field}: {item.reason} {item.hint}".strip(), item.path) for item in found]


def faults(subjects: Sequence[Subject]) -> list[Fault]:
    """Everything that is to be said about the models, in the order of files and lines."""
    models = {subject.name: subject for subject in subjects}
    found: list[Fault] = []
    for subject in subjects:
        report = Report(subject)
        for rule in _RULES:
            rule(report)
        check_tensors(report)
        if subject.backend == "ensemble":
            check_ensemble(report, models)
        found.extend(sorted(report, key=lambda fault: fault.line))
    return found


def _name(report: Report) -> None:
    name, directory = report.subject.config.name, report.subject.name
    if name and name != directory:
        hint = f'Write name: "{directory}", or leave the line out.'
        report.add(("name",), f"the model is called {name}, its directory {directory}; they must be equal.", hint)


def _backend(report: Report) -> None:
    subject = report.subject
    backend, platform = subject.config.backend, subject.config.platform
    meant = PLATFORMS.get(platform)
    if platform and meant is None:
        near = difflib.get_close_matches(platform, PLATFORMS, 1)
        hint = f"Did you mean {near[0]}?" if near else "Leave platform out and write backend."
        report.add(("platform",), f"{platform!r} is no platform of Triton's.", hint)
    if platform and meant and backend and meant != backend:
        report.add(("platform",), f"{platform} is of the backend {meant}, but backend is {backend}.", "Leave one out.")
    library = f"libtriton_{backend}.so"
    if backend and backend not in KNOWN and not any(path.split("/")[-1] == library for path in subject.files):
        near = difflib.get_close_matches(backend, sorted(KNOWN), 1)
        advice = f"Did you mean {near[0]}? " if near else ""
        report.add(
            ("backend",), f"no backend {backend!r} is known.", f"{advice}A backend of your own brings {library}."
        )
    if not subject.backend and not platform:
        kinds = " and ".join(subject.kinds)
        which = f"there are files of {kinds}" if kinds else "no file tells which"
        report.add(("backend",), f"backend is missing, and {which}.", 'Write, for example, backend: "python".')
    if subject.backend == "caffe2":
        report.add(("platform",), "today's Triton has no Caffe2 backend.", "Take an older base.", "warning")


def _files(report: Report) -> None:
    """The model's file in every version that is loaded, and the other files that the configuration names."""
    subject, config = report.subject, report.subject.config
    where = ("default_model_filename",) if config.default_model_filename else ("backend",)
    names = (config.default_model_filename,) if config.default_model_filename else FILES.get(subject.backend, ())
    if config.platform.startswith("tensorflow_") and not config.default_model_filename:
        names = (f"model.{config.platform.removeprefix('tensorflow_')}",)
    if config.runtime and not config.default_model_filename:
        names = ()
    for version in subject.loaded if names else ():
        if not any(subject.has(name, version) for name in names):
            wanted = f"{' or '.join(names)} is not in {subject.name}/{version}/"
            report.add(where, f"{wanted}, where the backend {subject.backend} looks for it.")
    for key, name in config.cc_model_filenames.items():
        if not all(subject.has(name, version) for version in subject.loaded):
            report.add(("cc_model_filenames",), f"{name} (for {key}) is not among the model's files.")
    files = set(subject.files)
    for index, output in enumerate(config.output):
        if output.label_filename and output.label_filename not in files:
            hint = "It belongs beside config.pbtxt, not into the version directory."
            reason = f"{output.label_filename} is not in the model's directory."
            report.add(("output", index, "label_filename"), reason, hint)


def _versions(report: Report) -> None:
    policy = report.subject.config.version_policy
    choice = policy.WhichOneof("policy_choice")
    there = {int(version) for version in report.subject.versions}
    known = listed(sorted(there))
    for index, version in enumerate(policy.specific.versions if choice == "specific" else ()):
        if version not in there:
            where: Path = ("version_policy", "specific", "versions", index)
            report.add(where, f"there is no version {version}; there are: {known}.")
    if choice == "specific" and not policy.specific.versions:
        report.add(("version_policy", "specific"), "it names no version, so none would be loaded.")
    if choice == "latest" and policy.latest.num_versions == 0:
        report.add(
            ("version_policy", "latest", "num_versions"),
            "num_versions is 0, so no version would be loaded.",
            "Write 1 or more.",
        )


def _batching(report: Report) -> None:
    config, limit = report.subject.config, report.subject.config.max_batch_size
    if limit < 0:
        report.add(("max_batch_size",), f"{limit} is negative.", "Write 0 for a model that does not batch.")
    if not config.HasField("dynamic_batching"):
        return
    batching = config.dynamic_batching
    completed = report.subject.backend in COMPLETING or report.subject.completes
    if limit == 0 and (not completed or report.said("max_batch_size")):
        hint = "Set max_batch_size, or leave dynamic_batching out."
        report.add(("dynamic_batching",), "max_batch_size is 0: Triton ignores it without a word.", hint)
    for index, size in enumerate(batching.preferred_batch_size):
        where = ("dynamic_batching", "preferred_batch_size", index)
        if size <= 0:
            report.add(where, f"{size} is not a batch size.", "Write 1 or more.")
        elif 0 < limit < size:
            report.add(where, f"{size} is above max_batch_size, which is {limit}.")
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        report.add(
            ("dynamic_batching", "default_priority_level"),
            f"{default} is not among the {levels} priority levels.",
            f"Write 1 to {levels}.",
        )


def _instances(report: Report) -> None:
    names: set[str] = set()
    kinds = {1: "KIND_GPU", 2: "KIND_CPU"}
    for index, group in enumerate(report.subject.config.instance_group):
        where = ("instance_group", index)
        counted = "count" in report.occurrence(index, "instance_group").fields
        if group.count < 0 or (group.count == 0 and counted):
            reason = f"{group.count} is not a number of instances; Triton starts one all the same."
            report.add((*where, "count"), reason, "Write 1 or more.")
        if group.name and group.name in names:
            report.add((*where, "name"), f"a second instance group is called {group.name!r}.")
        names.add(group.name)
        if kinds.get(group.kind) == "KIND_CPU" and group.gpus:
            report.add((*where, "gpus"), "GPUs are named for a group of KIND_CPU.", "Leave one of the two out.")
        if kinds.get(group.kind) == "KIND_GPU":
            hint = "KIND_AUTO takes a GPU where there is one."
            report.add((*where, "kind"), "KIND_GPU: the model loads on machines with a GPU only.", hint, "warning")


def _maps(report: Report) -> None:
    """Keys given twice, of which Triton silently takes the last; and an environment that mpack did not build."""
    for name in ("parameters", "cc_model_filenames", "metric_tags"):
        seen: set[str] = set()
        for index, key in enumerate(report.positions.root.key_list(name)):
            if key in seen:
                report.add((name, index, "key"), f"{key!r} is given twice; Triton takes the last.", "Leave one out.")
            seen.add(key)
            if name == "parameters" and key == "EXECUTION_ENV_PATH":
                hint = "Leave it out and name the packages in conda.yaml or requirements.txt."
                reason = "mpack builds the environment into the image; a packed one would take its place unseen."
                report.add((name, index), f"EXECUTION_ENV_PATH: {reason}", hint)


def _warmup(report: Report) -> None:
    inputs = {item.name for item in report.subject.config.input}
    files = set(report.subject.files)
    for index, warmup in enumerate(report.subject.config.model_warmup):
        order = report.occurrence(index, "model_warmup").keys("inputs")
        for name, value in sorted(warmup.inputs.items()):
            where = ("model_warmup", index, "inputs", order.get(name, 0))
            if inputs and name not in inputs:
                report.add(where, f"the model has no input {name!r}; it has: {listed(sorted(inputs))}.")
            file = value.input_data_file
            if file and f"warmup/{file}" not in files:
                report.add((*where, "value", "input_data_file"), f"warmup/{file} is not in the model's directory.")


_RULES: tuple[Callable[[Report], None], ...] = (
    _name,
    _backend,
    _files,
    _versions,
    _batching,
    _instances,
    _maps,
    _warmup,
)
