"""What a dependency cache should have: the heaviest set of packages, against trying all of them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpack.bases.choice import Package, choose, saved

NUMPY, PANDAS = ("numpy", "1"), ("pandas", "1")
SIZES = {("numpy", "1"): 10, ("numpy", "2"): 12, ("pandas", "1"): 30, ("pandas", "2"): 31, ("rare", "1"): 900}


def env(*packages: str) -> dict[str, str]:
    """ "numpy1 pandas2" -> an environment."""
    return {item[:-1]: item[-1] for item in packages}


@pytest.mark.parametrize(
    ("environments", "wanted"),
    [
        ([], []),
        ([env("numpy1")], []),
        ([env("numpy1", "rare1"), env("numpy1")], ["numpy1"]),
        # two of one version outweigh a larger one that is in one artifact only
        ([env("numpy1"), env("numpy1"), env("numpy2")], ["numpy1"]),
        ([env("numpy1"), env("numpy1"), env("numpy2"), env("numpy2")], ["numpy2"]),
        # nothing is known of them together, and nothing speaks against it
        ([env("numpy1"), env("numpy1"), env("pandas1"), env("pandas1")], ["numpy1", "pandas1"]),
        # pandas 1 was only seen beside numpy 1, so numpy 2 goes, though more artifacts have it
        (
            [env("numpy1", "pandas1"), env("numpy1", "pandas1"), env("numpy2"), env("numpy2"), env("numpy2")],
            ["numpy1", "pandas1"],
        ),
        # of two generations the heavier one, whole
        (
            [env("numpy1", "pandas1"), env("numpy1", "pandas1"), env("numpy2", "pandas2"), env("numpy2", "pandas2")],
            ["numpy2", "pandas2"],
        ),
        ([env("new1"), env("new1")], []),
    ],
)
def test_examples(environments: list[dict[str, str]], wanted: list[str]) -> None:
    """Shared packages, one version each, none never seen beside its neighbours; unknown sizes weigh nothing."""
    assert choose(environments, SIZES) == {(item[:-1], item[-1]) for item in wanted}


def test_the_second_choice() -> None:
    """Without the first choice's packages the other generation is left."""
    old, new = env("numpy1", "pandas1"), env("numpy2", "pandas2")
    first = choose([old, old, new, new], SIZES)
    assert choose([old, old, new, new], SIZES, without=first) == {NUMPY, PANDAS}


def test_saved() -> None:
    """Bytes of exactly these versions."""
    assert saved(env("numpy1", "pandas2"), SIZES, {NUMPY, PANDAS}) == 10


def may_be_together(environments: list[dict[str, str]], one: Package, two: Package) -> bool:
    """The rule, said the long way."""
    if one[0] == two[0]:
        return False
    pairs = [(item.get(one[0]), item.get(two[0])) for item in environments]
    if (one[1], two[1]) in pairs:
        return True
    both = [pair for pair in pairs if None not in pair]
    return not any(a == one[1] or b == two[1] for a, b in both)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), max_size=4), max_size=6),
    st.lists(st.integers(0, 9), min_size=12, max_size=12),
)
def test_no_set_is_heavier(environments: list[dict[str, str]], numbers: list[int]) -> None:
    """Of all sets of shared packages that the rule allows none weighs more than the one chosen, which is allowed."""
    sizes = dict(zip([(name, version) for name in "abcd" for version in "123"], numbers, strict=True))
    counts = Counter(item for environment in environments for item in environment.items())
    shared = [item for item in counts if counts[item] > 1]

    def weight(items: frozenset[Package]) -> int:
        return sum(sizes[item] * counts[item] for item in items)

    allowed = [
        frozenset(items)
        for number in range(len(shared) + 1)
        for items in combinations(shared, number)
        if all(may_be_together(environments, one, two) for one, two in combinations(items, 2))
    ]
    chosen = choose(environments, sizes)
    assert chosen in allowed
    assert weight(chosen) == max(map(weight, allowed))
    assert choose(environments[::-1], sizes) == chosen
