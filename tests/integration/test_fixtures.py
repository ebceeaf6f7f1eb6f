"""Every model fixture, built by both builders, run read-only without capabilities, answers as its expect.json says."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

HARD = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
NOBODY = "65534:65534"

pytestmark = [pytest.mark.docker, pytest.mark.integration]


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the builds of this module keep their locks, so that both builders use the same."""
    return tmp_path_factory.mktemp("locks")


def build(mpack: Any, case: Any, packager: str, builder: str, locks: Path) -> dict[str, Any]:
    """Builds one image into the engine and returns what `--json` printed."""
    result: dict[str, Any] = mpack.json(
        "build",
        case.artifact,
        *("-p", packager, "--builder", builder, "-o", "docker"),
        *("-t", f"mpack-test-{case.name}-{packager}:{builder}", "--lock", locks / f"{case.name}-{packager}.lock"),
    )
    return result


@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_rest(
    case: Any, builder: str, mpack: Any, serve: Any, locks: Path, remove_image: Any, assert_same: Any
) -> None:
    """As nobody, on a read-only root without capabilities, every request gets the expected status and answer."""
    built = build(mpack, case, "docker-rest", builder, locks)
    remove_image(built["image"])
    assert built["verified"]["status"] == "passed"
    assert built["builder"] == builder
    with serve(built["image"], *HARD, "--user", NOBODY) as client:
        for request in case.expect["requests"]:
            body = request["body"] if isinstance(request["body"], str) else json.dumps(request["body"])
            answer = client.post(
                "/api/model/invoke", content=body.encode(), headers={"Content-Type": request["content_type"]}
            )
            assert answer.status_code == request["status"], answer.text
            if "answer" in request:
                assert_same(answer.json(), request["answer"])
            assert answer.headers["Model-Name"] == case.expect["name"]
            assert answer.headers["Model-Version"] == case.expect["version"]


@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_cli(
    case: Any, builder: str, mpack: Any, engine: str, locks: Path, tmp_path: Path, remove_image: Any, assert_same: Any
) -> None:
    """The reference's command, as written, in a directory of another user: the answer is there and is that user's."""
    built = build(mpack, case, "docker-cli", builder, locks)
    remove_image(built["image"])
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "x.json").write_text(json.dumps(case.expect["cli"]["input"]), "utf-8")
    for path in (volume, volume / "x.json"):
        os.chown(path, 1234, 1234)
    done = subprocess.run(
        [engine, "run", "--rm", "-v", f"{volume}:/volume", built["image"], "predict", "/volume/x.json", "/volume"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Prediction is successful. Result file: /volume/results.json\n"
    result = volume / "results.json"
    assert_same(json.loads(result.read_text("utf-8")), case.expect["cli"]["answer"])
    assert (result.stat().st_uid, result.stat().st_gid) == (1234, 1234)
    result.unlink()
    told = [engine, "run", "--rm", *HARD, "--user", "1234:1234", "-v", f"{volume}:/volume", built["image"]]
    done = subprocess.run([*told, "predict", "/volume/x.json", "/volume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(json.loads(result.read_text("utf-8")), case.expect["cli"]["answer"])
