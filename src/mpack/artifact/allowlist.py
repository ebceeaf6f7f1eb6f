"""The (module, name) pairs that a model's pickle may name: constructors of data, never a whole module.

The rule for every pair: calling it with any arguments made of listed things, setting any state on what it gives and
calling that at prediction runs no code but its own arithmetic. So scipy.stats' distributions are out (their state holds
source that they exec), as are getattr, eval, import and file functions of any library, and whatever makes a class.

`allowlists/base.txt` is kept by hand, `allowlists/sklearn.txt` is written by tools/make_allowlist.py from the sources
of scikit-learn's releases. A line is a module and its names.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FILES = ("base.txt", "sklearn.txt")


def pairs() -> frozenset[tuple[str, str]]:
    """All listed pairs."""
    return frozenset((module, name) for module, names in _names().items() for name in names.split())


@cache
def _names() -> dict[str, str]:
    """Module -> its listed names, as they stand."""
    found: dict[str, str] = {}
    for file in FILES:
        for line in Path(__file__).with_name("allowlists").joinpath(file).read_text(encoding="utf-8").splitlines():
            module, _, names = line.partition("#")[0].strip().partition(" ")
            found[module] = f"{found.get(module, '')} {names}"
    return found


def known(module: str, name: str, *, joblib: bool = False) -> bool:
    """True if the pair is listed. joblib's array wrapper is data only to joblib's own unpickler."""
    if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
        return joblib
    return name in _names().get(module, "").split()
