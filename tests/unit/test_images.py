"""Where a reference is looked up: the store, the engine, then the registry that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from mpack import images
from mpack.engine import Docker
from mpack.errors import EnvironmentFault
from mpack.oci.store import Store
from mpack.testing.tiny import tiny_base


class FakeEngine:
    """Knows one image."""

    def inspect(self, reference: str) -> dict[str, Any] | None:
        if reference != "known:1":
            return None
        return {
            "Id": "sha256:1",
            "Os": "linux",
            "Architecture": "amd64",
            "Size": 5,
            "RootFS": {"Layers": ["sha256:2"]},
        }


def find(reference: str, store: Store) -> Any:
    return images.find_image(reference, store, cast(Docker, FakeEngine()), "linux/amd64")


def test_engine(tmp_path: Path) -> None:
    """An image that only the engine has is found there."""
    found = find("known:1", Store(tmp_path))
    assert (found.location, found.id, found.platform, found.size_unpacked) == ("docker", "sha256:1", "linux/amd64", 5)


def test_unknown(tmp_path: Path) -> None:
    """A name without a registry's host is asked of no registry."""
    with pytest.raises(EnvironmentFault, match="There is no image team/unknown:1") as caught:
        find("team/unknown:1", Store(tmp_path))
    assert caught.value.code == "image-unknown"


@pytest.mark.parametrize("reference", ["registry.example/x:1", "localhost/x", "127.0.0.1:5000/x:1"])
def test_registry(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a host is pulled, for the platform asked; the registry client itself is tested on a real registry."""
    store = Store(tmp_path)
    asked: list[tuple[str, str]] = []

    def pull(parsed: Any, platform: str, into: Store, *, say: Any) -> Any:
        asked.append((parsed.registry, platform))
        return into.image(tiny_base(into).digest)

    monkeypatch.setattr(images, "pull", pull)
    assert find(reference, store).location == "store"
    assert asked == [(reference.partition("/")[0], "linux/amd64")]
