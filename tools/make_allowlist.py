"""Writes src/mpack/artifact/allowlists/sklearn.txt from the sources of scikit-learn's releases.

    python tools/make_allowlist.py [VERSION…]

Each release's wheel is downloaded with pip and read as text; nothing of it is imported. Taken are classes that derive
from the roots below (estimators, kernels, losses, splitters, scorers), the few data classes that estimators hold, and
functions that estimators take as parameters (scores, metrics, kernels). What is compiled, or a private
function, stands in BY_HAND.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "src/mpack/artifact/allowlists/sklearn.txt"
#: Release -> a Python that has a wheel of it.
VERSIONS = {
    "0.22.2.post1": "3.8",
    "0.23.2": "3.8",
    "0.24.2": "3.9",
    "1.0.2": "3.9",
    "1.1.3": "3.10",
    "1.2.2": "3.11",
    "1.3.2": "3.11",
    "1.4.2": "3.11",
    "1.5.2": "3.11",
    "1.6.1": "3.11",
    "1.7.2": "3.11",
    "1.8.0": "3.11",
    "1.9.1": "3.11",
}
#: Parts of scikit-learn that no fitted estimator holds: tests, loaders of data, plots, other people's code.
LEFT_OUT = (
    "tests",
    "datasets",
    "externals",
    "experimental",
    "inspection",
    "conftest",
    "callback",
    "estimator_checks",
    "_testing",
    "_mocking",
    "_plot",
    "_build_utils",
    "parallel",
    "_joblib",
)
ROOTS = {
    "BaseEstimator",
    "Kernel",
    "BaseCrossValidator",
    "BaseShuffleSplit",
    "_RepeatedSplits",
    "BaseLoss",
    "BaseLink",
    "LossFunction",
    "BaseOptimizer",
    "_BaseScorer",
}
DATA_CLASSES = {
    "Bunch",
    "Interval",
    "TreePredictor",
    "MissingValues",
    "MetadataRequest",
    "MetadataRouter",
    "MethodMetadataRequest",
    "MethodMapping",
    "MethodPair",
    "RouterMappingPair",
    "RouteMappingPair",
    "Hyperparameter",
    "_BisectingTree",
    "_CFNode",
    "_CFSubcluster",
    "_CalibratedClassifier",
    "_IdentityClassifier",
    "_MultimetricScorer",
    "_PassthroughScorer",
    "_SigmoidCalibration",
    "_TemperatureScaling",
    "_nandict",
    "make_column_selector",
}
#: Modules whose public functions are parameters of estimators: module -> names left out.
FUNCTIONS = {
    "sklearn.feature_selection._univariate_selection": set(),
    "sklearn.feature_selection._mutual_info": set(),
    "sklearn.feature_selection.univariate_selection": set(),
    "sklearn.feature_selection.mutual_info_": set(),
    "sklearn.metrics._classification": set(),
    "sklearn.metrics._ranking": set(),
    "sklearn.metrics._regression": set(),
    "sklearn.metrics.pairwise": {"pairwise_distances_chunked"},
    "sklearn.metrics.cluster._supervised": set(),
    "sklearn.metrics.cluster._unsupervised": set(),
    "sklearn.preprocessing._data": set(),
}
LOSSES = (
    "AbsoluteError ExponentialLoss HalfBinomialLoss HalfGammaLoss HalfMultinomialLoss HalfPoissonLoss HalfSquaredError"
)
LOSSES += " HalfTweedieLoss HalfTweedieLossIdentity HuberLoss PinballLoss LossFunction"
SGD = "EpsilonInsensitive Hinge Huber Log LossFunction ModifiedHuber SquaredEpsilonInsensitive SquaredHinge SquaredLoss"
SGD += " Classification Regression"
METRICS = (
    "Euclidean SEuclidean Manhattan Chebyshev Minkowski WMinkowski Mahalanobis Hamming Canberra BrayCurtis Jaccard"
)
METRICS += " Matching Dice Kulsinski RogersTanimoto RussellRao SokalMichener SokalSneath Haversine"
LOSS_NAMES = [prefix + name for name in LOSSES.split() for prefix in ("Cy", "__pyx_unpickle_Cy")]
METRIC_NAMES = [f"{name}Distance{bits}" for name in METRICS.split() for bits in ("", "32", "64")]
BY_HAND = {
    "sklearn.cluster._kmeans": ["_kmeans_single_elkan", "_kmeans_single_lloyd"],
    "sklearn.metrics._scorer": ["_passthrough_scorer"],
    "sklearn.tree._tree": ["Tree"],
    "sklearn.neighbors._kd_tree": ["KDTree", "KDTree32", "KDTree64", "newObj"],
    "sklearn.neighbors._ball_tree": ["BallTree", "BallTree32", "BallTree64", "newObj"],
    "sklearn.neighbors._dist_metrics": ["newObj", *METRIC_NAMES],
    "sklearn.metrics._dist_metrics": ["newObj", *METRIC_NAMES],
    "sklearn.linear_model._sgd_fast": SGD.split(),
    "sklearn._loss._loss": LOSS_NAMES,
    "sklearn.ensemble._hist_gradient_boosting.common": ["MonotonicConstraint"],
    "sklearn.cluster._hierarchical_fast": ["UnionFind"],
}


def main(versions: list[str]) -> None:
    pairs: dict[str, set[str]] = defaultdict(set)
    for module, names in BY_HAND.items():
        pairs[module] |= set(names)
    with tempfile.TemporaryDirectory() as scratch:
        for version in versions or VERSIONS:
            for module, name in names_of(wheel(version, Path(scratch))):
                pairs[module].add(name)
    header = f"# Written by tools/make_allowlist.py from scikit-learn {', '.join(versions or VERSIONS)}.\n"
    lines = [f"{module} {' '.join(sorted(names))}\n" for module, names in sorted(pairs.items())]
    TARGET.write_text(header + "".join(lines))
    print(f"{sum(map(len, pairs.values()))} names in {len(pairs)} modules -> {TARGET}")


def wheel(version: str, scratch: Path) -> Path:
    """Downloads one release's wheel."""
    target = scratch / version
    platforms = [
        f"--platform={name}_x86_64" for name in ("manylinux1", "manylinux2010", "manylinux2014", "manylinux_2_17")
    ]
    platforms += ["--platform=manylinux_2_27_x86_64", "--platform=manylinux_2_28_x86_64"]
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={VERSIONS.get(version, '3.11')}", *platforms]
    command = [sys.executable, "-m", "pip", "download", "-q", f"scikit-learn=={version}", f"--dest={target}", *options]
    subprocess.run(command, check=True)
    return next(target.glob("*.whl"))


def names_of(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything in one wheel that the rules take."""
    modules = dict(sources(path))
    classes = [
        (module, node.name, {ast.unparse(base).rpartition(".")[2] for base in node.bases})
        for module, body in modules.items()
        for node in body.body
        if isinstance(node, ast.ClassDef)
    ]
    taken = set(ROOTS)
    while True:
        more = {name for _, name, bases in classes if bases & taken} - taken
        if not more:
            break
        taken |= more
    yield from ((module, name) for module, name, _ in classes if name in taken | DATA_CLASSES)
    for module, left_out in FUNCTIONS.items():
        for node in modules[module].body if module in modules else ():
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in left_out:
                yield module, node.name


def sources(path: Path) -> Iterator[tuple[str, ast.Module]]:
    """Dotted name and syntax tree of each Python module in a wheel."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            parts = name.removesuffix(".py").removesuffix("/__init__").split("/")
            if not name.endswith(".py") or parts[0] != "sklearn" or any(part in LEFT_OUT for part in parts):
                continue
            yield ".".join(parts), ast.parse(archive.read(name))


if __name__ == "__main__":
    main(sys.argv[1:])
