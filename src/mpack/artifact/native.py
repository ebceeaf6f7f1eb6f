"""Which requirements a model needs when mpack's runtime loads it itself, and what else the formats share about them.

A model file alone tells its library and version; a training environment tells more than serving needs. Two rules thin
it out, both noted: mlflow and pandas are left out where the loader does not use them (`--keep-mlflow` keeps mlflow),
and xgboost becomes xgboost-cpu, the same code without a GPU's libraries (a GPU option keeps it). All else stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from mpack.artifact.model import Finding, Trust
from mpack.artifact.pickle_values import Global, Instance
from mpack.artifact.plain import older
from mpack.artifact.requirements import parse, requirement_name
from mpack.spec import Requirement

if TYPE_CHECKING:
    from packaging.requirements import Requirement as Pep508

MLFLOW = frozenset({"mlflow", "mlflow-skinny", "mlflow-tracing"})
#: The first release of xgboost-cpu.
XGBOOST_CPU = "2.1.1"
#: scikit-learn before this version -> the first NumPy and SciPy that it does not work with.
_SKLEARN_NUMPY = ("1.4.2", "2")
_SKLEARN_SCIPY = (
    ("0.23", "1.5"),
    ("1.0", "1.8"),
    ("1.1", "1.9"),
    ("1.2", "1.10"),
    ("1.3", "1.11"),
    ("1.4", "1.12"),
    ("1.5", "1.14"),
    ("1.6", "1.15"),
    ("1.7", "1.16"),
)


def thin(
    requirements: Iterable[Requirement], needs: frozenset[str], trust: Trust
) -> tuple[tuple[Requirement, ...], tuple[Finding, ...]]:
    """A natively loaded model's requirements without mlflow and pandas where it does not need them."""
    unused = (frozenset() if trust.keep_mlflow else MLFLOW) | (frozenset({"pandas"}) - needs)
    kept: list[Requirement] = []
    dropped: list[str] = []
    for item in requirements:
        (dropped if requirement_name(item) in unused else kept).append(item)  # type: ignore[arg-type]
    lines, findings = cpu_only(kept, trust)
    if dropped:
        names = ", ".join(sorted({requirement_name(item) for item in dropped}))  # type: ignore[arg-type]
        findings = (Finding("note", f"not installed, since serving does not need it: {names}"), *findings)
    return lines, findings


def cpu_only(requirements: Iterable[Requirement], trust: Trust) -> tuple[tuple[Requirement, ...], tuple[Finding, ...]]:
    """The requirements with xgboost-cpu in place of xgboost, where that has the version; unless a GPU is wanted."""
    items = list(requirements)
    if trust.gpu:
        return tuple(items), ()
    has_cpu = any(requirement_name(item) == "xgboost-cpu" for item in items)
    kept: list[Requirement] = []
    findings: list[Finding] = []
    for item in items:
        parsed = parse(item.line) if requirement_name(item) == "xgboost" and ".whl" not in item.line else None
        if parsed is None or parsed.url or not _exists_for_cpu(parsed):
            kept.append(item)
            continue
        findings.append(Finding("note", f"xgboost-cpu in place of {parsed}: the same without libraries for GPUs"))
        if not has_cpu:
            parsed.name = "xgboost-cpu"
            kept.append(replace(item, line=str(parsed)))
    return tuple(kept), tuple(findings)


def _exists_for_cpu(parsed: Pep508) -> bool:
    exact = [clause.version for clause in parsed.specifier if clause.operator == "==" and "*" not in clause.version]
    try:
        return (
            all(not older(version, XGBOOST_CPU) for version in exact) if exact else parsed.specifier.contains("3.0.0")
        )
    except ValueError:
        return False


def add_missing(requirements: tuple[Requirement, ...], *lines: str, source: str) -> tuple[Requirement, ...]:
    """The requirements and those of `lines` whose package they do not name."""
    found = {requirement_name(item): item for item in requirements}
    for line in lines:
        item = Requirement(line, "model", source)
        found.setdefault(requirement_name(item), item)
    return (*requirements, *(item for item in found.values() if item not in requirements))


def sklearn_lines(version: str | None, names: Iterable[Global]) -> list[str]:
    """scikit-learn in the version that wrote a file, and bounds for what it stands on."""
    lines = numpy_lines(names)
    if not version:
        return ["scikit-learn", *lines]
    try:
        if older(version, _SKLEARN_NUMPY[0]) and not lines:
            lines.append(f"numpy<{_SKLEARN_NUMPY[1]}")
    except ValueError:
        return ["scikit-learn", *lines]
    lines += [f"scipy<{bound}" for before, bound in _SKLEARN_SCIPY if older(version, before)][:1]
    return [f"scikit-learn=={version}", *lines]


def numpy_lines(names: Iterable[Global]) -> list[str]:
    """NumPy 2 where a pickle names its modules: NumPy 1 cannot read that. The other way round it can."""
    return ["numpy>=2"] if any(name.module.startswith("numpy._core") for name in names) else []


def wants_pandas(names: Iterable[Global], instances: Iterable[Instance]) -> bool:
    """True if an estimator picks its columns by name, which works on a DataFrame only, or holds pandas objects.

    That is a ColumnTransformer fitted on a DataFrame, or make_column_selector. An estimator that merely remembers its
    columns' names takes plain arrays.
    """
    for name in names:
        if name.module.partition(".")[0] == "pandas" or name.name == "make_column_selector":
            return True
    return any(
        item.of.name == "ColumnTransformer"
        and (item.attribute("feature_names_in_") is not None or item.attribute("_df_columns") is not None)
        for item in instances
    )
