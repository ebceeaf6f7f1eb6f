"""Same input, same image: literal digests, and the same digest wherever and by whomever it is built.

The base is one file of the test's own and the model two; no package is installed and the venv is left out (its files
are the business of tests of `mpack.env`), so that the digests depend on mpack's layers and configuration alone. A
change of a literal here changes every image that users have: it belongs into the changelog.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpack.oci.layer import ENCODER

PROGRAM = """
import json, os, sys
from pathlib import Path

mask, place, shuffle = int(sys.argv[1], 8), Path(sys.argv[2]), sys.argv[3] == "shuffled"
os.umask(mask)
if shuffle:
    scan = os.scandir

    class Reversed:
        def __init__(self, path):
            with scan(path) as items:
                self.items = sorted(items, key=lambda item: item.name, reverse=True)
        def __enter__(self):
            return iter(self.items)
        def __exit__(self, *_):
            return None

    os.scandir = Reversed
from mpack.builders.runtimeconfig import runtime_config
from mpack.contents import Contents
from mpack.oci.compose import append_layers
from mpack.oci.layer import directory_entries, tree_entries
from mpack.oci.store import Store
from mpack.testing.tiny import tiny_base, tiny_plan

if len(sys.argv) > 4:  # only now: the other user need not be able to read the checkout
    os.setgid(int(sys.argv[4]))
    os.setuid(int(sys.argv[4]))
model = place / "model"
(model / "data").mkdir(parents=True)
for name, text in (("model.bin", "weights" * 5000), (os.fsdecode(b"data/\\xc3\\xbc.txt"), "text")):
    (model / name).write_text(text)
(model / os.fsdecode(b"data/\\xc3\\xbc.txt")).chmod(0o755)
store = Store(place / "store")
base = tiny_base(store)
plan, contents = tiny_plan(base, model)
layers = [store.write_layer(directory_entries(model, "/opt/mpack/venv"), kind="dependencies")]
layers += [store.write_layer(tree_entries(tree, contents), kind=tree.kind) for tree in plan.trees]
image = append_layers(store, base, layers, runtime=runtime_config(base.runtime, plan.config))
print(json.dumps({"base": base.id, "id": image.id, "digest": image.digest}))
"""

#: The base's and the image's configuration digest, which no encoder has a part in.
BASE_ID = "sha256:7f40382945fa57d7e5edb8c2c0d22a3cf8c31016d2df2ab0704bbe5c1f9c3aa0"
IMAGE_ID = "sha256:a61e247cb560a2f7fc3b6499586d418cbf85e7973b06c1eb2dae4908b42656a0"
#: The manifest digest for each known encoder.
DIGESTS = {
    "deflate 0.9.0 form 2": "sha256:57f6becf535f8313e119054f02de28694eea2ea60b2b8010be297d75eae3c707",
    "zlib 1.2.13 form 2": "sha256:02f4521e977053d5e61f9706e4d0d216ed9bcf4687dbe13711f1a824454e21d4",
}


def build(
    place: Path, *, mask: str = "022", order: str = "as is", uid: int | None = None, **env: str
) -> dict[str, str]:
    """Builds in a process of its own and gives the digests."""
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mask, str(place), order, *([] if uid is None else [str(uid)])],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


def test_literal_digests(tmp_path: Path) -> None:
    """The digests are those written here."""
    made = build(tmp_path / "a")
    assert (made["base"], made["id"]) == (BASE_ID, IMAGE_ID)
    assert ENCODER in DIGESTS, "another encoder: add its digest after looking at what it changes for users"
    assert made["digest"] == DIGESTS[ENCODER]


@pytest.mark.parametrize(
    "how",
    [
        {"mask": "077"},
        {"mask": "000"},
        {"TZ": "Asia/Kathmandu", "SOURCE_DATE_EPOCH": "1700000000"},
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "7"},
        {"order": "shuffled", "PYTHONHASHSEED": "1"},
    ],
    ids=["umask 077", "umask 000", "time zone", "locale C", "directory order"],
)
def test_circumstances_do_not_matter(tmp_path: Path, how: dict[str, str]) -> None:
    """Another directory, umask, time zone, locale, hash seed or directory order: the same digests."""
    assert build(tmp_path / "another place", **how)["id"] == IMAGE_ID  # type: ignore[arg-type]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user(tmp_path: Path) -> None:
    """Another user builds the same image."""
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    assert build(tmp_path / "theirs", uid=65534, HOME=str(tmp_path))["id"] == IMAGE_ID
