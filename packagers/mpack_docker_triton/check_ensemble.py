"""Faults of an ensemble: its steps, the models in them, and the tensors that go from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .check_tensors import agree
from .dtypes import v2_of_config
from .faults import Report, Subject, listed
from .positions import Path
from .schema import Message, pb2

_STEP = "ensemble_scheduling"


@dataclass(frozen=True)
class _End:
    """A place where an ensemble's tensor is written or read: whose tensor it is (None: a model that is unknown)."""

    where: Path
    whose: str
    tensor: Message | None
    batched: bool


def check_ensemble(report: Report, models: Mapping[str, Subject]) -> None:
    """Adds the faults of an ensemble; `models` are all models of the repository by name."""
    subject, config = report.subject, report.subject.config
    if config.platform != "ensemble":
        where = ("platform",) if config.platform else (_STEP,) if config.HasField(_STEP) else ("backend",)
        report.add(where, 'an ensemble needs platform: "ensemble".', "The backend's name does not do.")
    if config.backend and config.backend != "ensemble":
        report.add(("backend",), f"an ensemble has no backend {config.backend}.", "Leave it out.")
    if config.instance_group:
        report.add(("instance_group",), "an ensemble has no instances of its own.", "Set them for its models.")
    if not config.ensemble_scheduling.step:
        report.add((_STEP,), "the ensemble has no step.")
        return
    written, read = _wires(report, models)
    _flow(report, written, read)
    if not _circular(report, models) and subject.config.max_batch_size >= 0:
        _agreement(report, written, read)


def _wires(report: Report, models: Mapping[str, Subject]) -> tuple[dict[str, list[_End]], dict[str, list[_End]]]:
    """Where each tensor is written and read; the ensemble's own inputs are written, its outputs read."""
    config = report.subject.config
    batched = config.max_batch_size > 0
    written: dict[str, list[_End]] = {}
    read: dict[str, list[_End]] = {}
    for index, item in enumerate(config.input):
        written.setdefault(item.name, []).append(_End(("input", index), "the ensemble", item, batched))
    for index, item in enumerate(config.output):
        read.setdefault(item.name, []).append(_End(("output", index), "the ensemble", item, batched))
    for index, step in enumerate(config.ensemble_scheduling.step):
        where = (_STEP, "step", index)
        model = _model(report, where, step, models)
        for kind, ends in (("input_map", read), ("output_map", written)):
            _map(report, where, step, kind, model, ends)
    return written, read


def _model(report: Report, where: Path, step: Message, models: Mapping[str, Subject]) -> Subject | None:
    if not step.model_name:
        report.add((*where, "model_name"), "the step names no model.")
        return None
    model = models.get(step.model_name)
    if model is None:
        known = listed(sorted(models))
        report.add((*where, "model_name"), f"the repository has no model {step.model_name!r}; it has: {known}.")
        return None
    version = step.model_version
    if version != -1 and version not in model.loaded:
        given = f"version {version} of {model.name} is not loaded"
        reason = f"{given}; 0 is what Triton reads where the field is missing." if version == 0 else f"{given}."
        report.add((*where, "model_version"), reason, "Write model_version: -1 for the newest.")
    limit, own = report.subject.config.max_batch_size, model.config.max_batch_size
    if 0 < own < limit:
        reason = f"the ensemble takes batches of {limit}, but {model.name} only of {own}."
        report.add(("max_batch_size",), reason)
    return model


def _map(
    report: Report, where: Path, step: Message, kind: str, model: Subject | None, ends: dict[str, list[_End]]
) -> None:
    pairs = getattr(step, kind)
    node = report.occurrence(int(where[2]), _STEP, "step")
    order = node.keys(kind)
    side = kind.removesuffix("_map")
    if not pairs:
        report.add((*where, kind), f"the step maps no {side}.")
    tensors = {item.name: item for item in (getattr(model.config, side) if model else ())}
    for key, value in sorted(pairs.items()):
        place = (*where, kind, order.get(key, 0))
        if tensors and key not in tensors:
            reason = f"{step.model_name} has no {side} {key!r}; it has: {listed(sorted(tensors))}."
            report.add((*place, "key"), reason)
        batched = model is not None and model.config.max_batch_size > 0
        ends.setdefault(value, []).append(_End((*place, "value"), step.model_name, tensors.get(key), batched))
    if len(order) != len(node.key_list(kind)):
        report.add((*where, kind), f"a key of {kind} is given twice; Triton takes the last.")
    left = [name for name, item in tensors.items() if name not in pairs and side == "input" and not item.optional]
    if pairs and left:
        report.add((*where, kind), f"the inputs {listed(left)} of {step.model_name} are not mapped.")


def _flow(report: Report, written: Mapping[str, list[_End]], read: Mapping[str, list[_End]]) -> None:
    """Every tensor that is read is written, once; every one that is written is read."""
    for name, ends in read.items():
        if name not in written:
            for end in ends:
                own = end.where[0] == "output"
                reason = "no step writes this output" if own else "no input and no step writes the tensor"
                report.add((*end.where, "name") if own else end.where, f"{reason} {name!r}.")
    for name, ends in written.items():
        for end in ends[1:]:
            report.add(end.where, f"the tensor {name!r} is written twice.")
        if name not in read:
            own = ends[0].where[0] == "input"
            reason = f"no step reads the ensemble's input {name!r}." if own else f"nothing reads the tensor {name!r}."
            report.add((*ends[0].where, "name") if own else ends[0].where, reason)


def _circular(report: Report, models: Mapping[str, Subject]) -> bool:
    """Adds a fault if steps wait for each other, or ensembles contain each other; True then."""
    steps = report.subject.config.ensemble_scheduling.step
    waiting = _waiting(report.subject.config)
    if waiting:
        where = (_STEP, "step", waiting[0])
        report.add(
            where, f"a circle: the steps {listed(waiting)} wait for each other's tensors, or for one behind them."
        )
        return True
    own, seen, todo = report.subject.name, set[str](), [step.model_name for step in steps]
    while todo:
        name = todo.pop()
        if name in models and name not in seen:
            seen.add(name)
            todo.extend(step.model_name for step in models[name].config.ensemble_scheduling.step)
    if own in seen:
        report.add((_STEP,), f"a circle: the ensemble {own} is, directly or not, a step of itself.")
    return own in seen


def _waiting(config: Message) -> list[int]:
    """The steps that never get all their tensors. One that nothing makes counts as there: it is another fault."""
    steps = config.ensemble_scheduling.step
    given = {item.name for item in config.input}
    made = {value for step in steps for value in step.output_map.values()} - given
    missing = [made.intersection(step.input_map.values()) for step in steps]
    readers: dict[str, list[int]] = {}
    for index, names in enumerate(missing):
        for name in names:
            readers.setdefault(name, []).append(index)
    able = [index for index, names in enumerate(missing) if not names]
    for index in able:
        for name in steps[index].output_map.values():
            for reader in readers.pop(name, ()):
                missing[reader].discard(name)
                if not missing[reader]:
                    able.append(reader)
    return sorted(set(range(len(steps))).difference(able))


def _agreement(report: Report, written: Mapping[str, list[_End]], read: Mapping[str, list[_End]]) -> None:
    """Type and shape where a tensor is written and where it is read, as far as both are known."""
    for name in sorted(set(written) & set(read)):
        source = written[name][0]
        for end in read[name]:
            if source.tensor is None or end.tensor is None:
                continue
            one, other = (_type(item.tensor) for item in (source, end))
            said = f"tensor {name!r}: {source.whose} gives"
            if one != other and "INVALID" not in (one, other):
                report.add(end.where, f"{said} {one}, {end.whose} wants {other}.")
            elif not _fits(source, end, report.subject.config.max_batch_size > 0):
                shapes = [[-1] * item.batched + list(getattr(item.tensor, "dims", ())) for item in (source, end)]
                reason = f"{said} {shapes[0]}, {end.whose} wants {shapes[1]}."
                report.add(end.where, reason)


def _type(tensor: Message) -> str:
    return v2_of_config(pb2().DataType.Name(tensor.data_type))


def _fits(source: _End, end: _End, batching: bool) -> bool:
    """As Triton compares: dims alone or whole shapes. In an ensemble that batches, dims alone do not do between what
    batches and what does not: Triton loads it (READY), and every request ends with "unexpected shape"."""
    one, other = list(getattr(source.tensor, "dims", ())), list(getattr(end.tensor, "dims", ()))
    whole = agree([-1] * source.batched + one, [-1] * end.batched + other)
    if not one or not other or whole:
        return True
    return agree(one, other) and not (batching and source.batched != end.batched)
