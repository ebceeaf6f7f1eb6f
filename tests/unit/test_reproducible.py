"""Same input, same image: literal digests, and the same digest wherever, whenever and by whomever it is built.

The base is one file of the test's own and the model two. The first image has no package and no venv, so its digests
depend on mpack's layers and configuration alone. The second has wheels of the test's own, which uv installs: one of
them is a layer by itself, the others are pieces of a joined layer, and two have a path in common. What uv writes
besides the wheels' files differs by machine and time, and is stripped (`mpack.env.layout`). A change of a literal here
changes every image that users have: it belongs into the changelog.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpack.oci.layer import ENCODER

PROGRAM = """
import json, os, random, sys, time
from pathlib import Path

how = json.loads(sys.argv[1])
place = Path(how["place"])
os.umask(int(how.get("mask", "022"), 8))
if "order" in how:
    scan, chance = os.scandir, random.Random(how["order"])

    class Shuffled:
        def __init__(self, path="."):
            with scan(path) as found:
                self.items = sorted(found, key=lambda item: item.name)
            chance.shuffle(self.items)
        def __iter__(self):
            return self
        def __next__(self):
            if not self.items:
                raise StopIteration
            return self.items.pop()
        def __enter__(self):
            return self
        def __exit__(self, *_):
            return None
        def close(self):
            return None

    os.scandir = Shuffled
    os.listdir = lambda path=".": [item.name for item in Shuffled(path)]
if "clock" in how:
    now = how["clock"]
    local, utc = time.localtime, time.gmtime
    time.time, time.time_ns = lambda: float(now), lambda: now * 10**9
    time.localtime = lambda seconds=None: local(now if seconds is None else seconds)
    time.gmtime = lambda seconds=None: utc(now if seconds is None else seconds)
from dataclasses import replace

from mpack.artifact.limits import Limits
from mpack.artifact.source import open_tree, tree_digest
from mpack.builders import wheels
from mpack.builders.runtimeconfig import runtime_config
from mpack.contents import Contents, sha256_file
from mpack.env.index import IndexSettings
from mpack.oci.compose import append_layers
from mpack.oci.layer import directory_entries, tree_entries
from mpack.oci.store import Store
from mpack.plan import LockedPackage
from mpack.testing.tiny import tiny_base, tiny_plan
from mpack.testing.wheels import make_wheel

if "uid" in how:  # only now: the other user need not be able to read the checkout
    os.setgid(how["uid"])
    os.setuid(how["uid"])
model = place / "model"
(model / "data").mkdir(parents=True)
for name, text in (("model.bin", "weights" * 5000), (os.fsdecode(b"data/\\xc3\\xbc.txt"), "text")):
    (model / name).write_text(text)
(model / os.fsdecode(b"data/\\xc3\\xbc.txt")).chmod(0o755)
store = Store(place / "store")
base = tiny_base(store)
plan, contents = tiny_plan(base, model)


def image_on(dependencies):
    layers = [store.write_layer(tree_entries(tree, contents), kind=tree.kind) for tree in plan.trees]
    return append_layers(store, base, [*dependencies, *layers], runtime=runtime_config(base.runtime, plan.config))


image = image_on([store.write_layer(directory_entries(model, "/opt/mpack/venv"), kind="dependencies")])
found = {"base": base.id, "id": image.id, "digest": image.digest}
(place / "scratch").mkdir()
found["artifact"] = tree_digest(open_tree(str(model), Limits(), place / "scratch"))
if "uid" not in how:  # he may not run uv
    wheels.LARGE = 4000
    packages, files = [], {
        "alone": {"alone/__init__.py": "x" * 5000},
        "first": {
            "first/__init__.py": "import both",
            "both.py": "of = 'first'",
            "first-1.0.data/scripts/run": "#!python",
        },
        "second": {"second/__init__.py": "", "second/sub/a.py": "a = 1", "both.py": "of = 'second'"},
    }
    for name, content in files.items():
        wheel = make_wheel(place / "wheels", name, files=content)
        sha256 = sha256_file(wheel)
        contents |= Contents({sha256: wheel})
        packages.append(LockedPackage(name, "1.0", (f"sha256:{sha256}",), "artifact", wheel.name))
    installed = replace(plan, environment=replace(plan.environment, packages=tuple(packages)))
    made = wheels.WheelLayers(store, IndexSettings(no_index=True)).layers(installed, contents)
    with_wheels = image_on([layer for layer, _ in made.layers])
    found |= {"wheels": with_wheels.id, "wheels digest": with_wheels.digest, "layers": len(made.layers)}
print(json.dumps(found))
"""

ONNX = Path(__file__).parents[2] / "fixtures" / "models" / "onnx-two-inputs" / "scores.onnx"
#: The configurations' digests and the artifact's, which no encoder has a part in.
BASE_ID = "sha256:7f40382945fa57d7e5edb8c2c0d22a3cf8c31016d2df2ab0704bbe5c1f9c3aa0"
IDS = {
    "id": "sha256:a61e247cb560a2f7fc3b6499586d418cbf85e7973b06c1eb2dae4908b42656a0",
    "artifact": "sha256:36d2b195b8317c5b3962917c368eddc96c27ef9978e1038f6bc7386c5ac3b53a",
    "wheels": "sha256:0e3becd5463808af3251df82a598b1304388e28c3e32574f40e0e87f6fc1f0fb",
}
#: The manifest digests for each known encoder: without wheels, with wheels.
DIGESTS = {
    "deflate 0.9.0 form 2": (
        "sha256:57f6becf535f8313e119054f02de28694eea2ea60b2b8010be297d75eae3c707",
        "sha256:8d4e42d9ac68490b1c1694d71aa5fffafe1d49ac6d0b2ed1b953ca61b1473617",
    ),
    "zlib 1.2.13 form 2": (
        "sha256:02f4521e977053d5e61f9706e4d0d216ed9bcf4687dbe13711f1a824454e21d4",
        "sha256:6f41f9e7359a6401268e5e589818301d5a78d97a98385a098a6a78621b2b1f4b",
    ),
}


def build(place: Path, *, how: dict[str, Any] | None = None, **env: str) -> dict[str, Any]:
    """Builds in a process of its own and gives the digests."""
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps({**(how or {}), "place": str(place)})],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_literal_digests(tmp_path: Path) -> None:
    """The digests are those written here."""
    made = build(tmp_path / "a")
    assert (made["base"], {key: made[key] for key in IDS}) == (BASE_ID, IDS)
    assert made["layers"] == 2, "one wheel alone, two joined"
    assert ENCODER in DIGESTS, "another encoder: add its digests after looking at what they change for users"
    assert (made["digest"], made["wheels digest"]) == DIGESTS[ENCODER]


@pytest.mark.parametrize(
    ("how", "env"),
    [
        ({"mask": "077"}, {}),
        ({"mask": "000"}, {}),
        ({}, {"TZ": "Asia/Kathmandu", "SOURCE_DATE_EPOCH": "1700000000"}),
        ({"clock": 4_000_000_000}, {"TZ": "Pacific/Kiritimati"}),
        ({"clock": 86_400}, {}),
        ({}, {"LC_ALL": "C", "LANG": "C", "PYTHONHASHSEED": "7"}),
        ({"order": 1}, {"PYTHONHASHSEED": "1"}),
        ({"order": 2}, {}),
    ],
    ids=["umask 077", "umask 000", "time zone", "year 2096", "year 1970", "locale C", "order", "another order"],
)
def test_circumstances_do_not_matter(tmp_path: Path, how: dict[str, Any], env: dict[str, str]) -> None:
    """Another directory, umask, time zone, clock, locale, hash seed or directory order: the same digests."""
    made = build(tmp_path / "another place", how=how, **env)
    assert {key: made[key] for key in IDS} == IDS


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user(tmp_path: Path) -> None:
    """Another user builds the same image."""
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    made = build(tmp_path / "theirs", how={"uid": 65534}, HOME=str(tmp_path))
    assert (made["id"], made["artifact"]) == (IDS["id"], IDS["artifact"])


def test_a_locale_without_utf8(tmp_path: Path) -> None:
    """The command reads the same names from a directory, and so the same artifact, where the locale has no UTF-8."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "ü.onnx").write_bytes(ONNX.read_bytes())
    command = [
        sys.executable,
        "-c",
        "from mpack.cli.main import run; run()",
        "inspect",
        str(tmp_path / "model"),
        "--json",
    ]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    made = [
        subprocess.run(command, env={**os.environ, **more}, capture_output=True, check=False) for more in ({}, plain)
    ]
    assert made[0].returncode == made[1].returncode == 0, made
    assert made[0].stdout == made[1].stdout and b"digest" in made[0].stdout
