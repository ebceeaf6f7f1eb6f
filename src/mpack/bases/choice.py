"""Which packages a dependency cache should have: a pure function of environments and sizes.

The rule that it saves by: a package that the base has in the locked version is not installed again. So a package in a
cache saves its size in every artifact that is locked to that very version, and a cache has one version of a package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

#: (name, version)
Package = tuple[str, str]
#: Steps of the search in one group of versions that exclude each other; then the best so far is taken.
_MOST_STEPS = 200_000


def choose(
    environments: Sequence[Mapping[str, str]], sizes: Mapping[Package, int], without: Collection[Package] = ()
) -> frozenset[Package]:
    """The packages for which size x environments is largest in sum, among those that two environments have at least.

    `environments` map names to versions, `sizes` packages to bytes. Two packages are chosen together only if some
    environment has both, or nothing speaks against it: none has one of them beside another version of the other.
    `without` are out. The same input gives the same choice.
    """
    counts = Counter(item for environment in environments for item in environment.items())
    weights = {
        item: sizes.get(item, 0) * count
        for item, count in counts.items()
        if count > 1 and item not in without and sizes.get(item, 0) > 0
    }
    together = _Together(environments, weights)
    found: set[Package] = set()
    for group in _groups(sorted(weights), together):
        found |= _heaviest(group, weights, together)
    return frozenset(found)


def saved(environment: Mapping[str, str], sizes: Mapping[Package, int], cache: Collection[Package]) -> int:
    """Bytes of an environment that a base with these packages has already."""
    return sum(sizes.get(item, 0) for item in environment.items() if item in cache)


class _Together:
    """Whether two packages may be in one cache, by what the environments show."""

    def __init__(self, environments: Sequence[Mapping[str, str]], packages: Iterable[Package]) -> None:
        #: Of each package the versions of other names that stand beside it somewhere.
        self._beside: dict[Package, dict[str, set[str]]] = {item: {} for item in packages}
        for environment in environments:
            for item in environment.items():
                if item in self._beside:
                    for name, version in environment.items():
                        self._beside[item].setdefault(name, set()).add(version)

    def __call__(self, one: Package, two: Package) -> bool:
        if one[0] == two[0]:
            return one == two
        seen = self._beside[one].get(two[0])
        return one[0] not in self._beside[two] if seen is None else two[1] in seen


def _groups(packages: Sequence[Package], together: _Together) -> list[list[Package]]:
    """The packages in groups between which nothing excludes anything."""
    left, groups = list(packages), []
    while left:
        group, front = [], [left.pop(0)]
        while front:
            item = front.pop()
            group.append(item)
            near = [other for other in left if not together(item, other)]
            left = [other for other in left if other not in near]
            front += near
        groups.append(group)
    return groups


def _heaviest(group: Sequence[Package], weights: Mapping[Package, int], together: _Together) -> set[Package]:
    """The heaviest set of a group in which nothing excludes anything: branch and bound, heavy packages first."""
    order = sorted(group, key=lambda item: (-weights[item], item))
    best: tuple[int, list[Package]] = (-1, [])
    stack: list[tuple[list[Package], list[Package], int]] = [(order, [], 0)]
    steps = 0
    while stack and steps < _MOST_STEPS:
        rest, chosen, weight = stack.pop()
        steps += 1
        if weight > best[0]:
            best = (weight, chosen)
        heaviest: dict[str, int] = {}
        for item in rest:
            heaviest.setdefault(item[0], weights[item])
        if weight + sum(heaviest.values()) <= best[0]:
            continue
        head, tail = rest[0], rest[1:]
        stack.append((tail, chosen, weight))
        stack.append(([item for item in tail if together(head, item)], [*chosen, head], weight + weights[head]))
    return set(best[1])
