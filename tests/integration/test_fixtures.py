"""Every model fixture, built by both builders, run read-only without capabilities, answers as its expect.json says, and
the same numbers on every road."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.integration.fixture_roads import CLI_EXTRAS, REST_EXTRAS, Call, Road, Sample, closed, rest_roads, sample_of
from tests.roads import FILES, Refused, Reply, Rows, exactly, good, post_json, read_result, rows_of, write_files

HARD = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
NOBODY = "65534:65534"

pytestmark = [pytest.mark.docker, pytest.mark.integration]


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the builds of this module keep their locks, so that both builders use the same."""
    return tmp_path_factory.mktemp("locks")


@pytest.fixture(scope="module")
def asked() -> dict[str, tuple[Any, Rows]]:
    """By fixture: the sample, and the rows that its REST image answered to it."""
    return {}


def build(mpack: Any, case: Any, packager: str, builder: str, locks: Path, extras: tuple[str, ...]) -> dict[str, Any]:
    """Builds one image into the engine and returns what `--json` printed."""
    result: dict[str, Any] = mpack.json(
        "build",
        case.artifact,
        *("-p", packager, "--builder", builder, "-o", "docker"),
        *("-t", f"mpack-test-{case.name}-{packager}:{builder}"),
        *("--lock", locks / f"{case.name}-{packager}-{len(extras)}.lock"),
        *(word for extra in extras for word in ("-a", extra)),
    )
    return result


def over_http(client: httpx.Client) -> Callable[[str, bytes, dict[str, str]], Reply]:
    """How a road posts to a container."""

    def ask(path: str, body: bytes, headers: dict[str, str]) -> Reply:
        answer = client.post(path, content=body, headers=headers)
        return Reply(answer.status_code, answer.content, answer.headers)

    return ask


def over_grpc(channel: grpc.Channel) -> Call:
    """How a road calls a container's ModelInfer."""

    def call(message: bytes) -> Reply:
        try:
            return Reply("OK", channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(message, timeout=30))
        except grpc.RpcError as error:
            return Reply(error.code().name, error.details().encode())

    return call


def walk(case: Any, roads: dict[str, Road], expected: Rows) -> None:
    """Each road answers these rows, bit for bit, or what the table of closed roads says."""
    for name, road in roads.items():
        refusal = closed(case.name, name)
        if refusal is None:
            assert exactly(road()) == exactly(expected), name
        else:
            status, words, why = refusal
            with pytest.raises(Refused) as refused:
                road()
            assert refused.value.status == status and words in refused.value.text, f"{name} ({why}): {refused.value}"


@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_rest(
    case: Any, builder: str, mpack: Any, engine: str, serve: Any, locks: Path, asked: Any, remove_image: Any,
    assert_same: Any,
) -> None:  # fmt: skip
    """As nobody, on a read-only root without capabilities, every request gets the expected status and answer; the
    sample gets the same one on every road."""
    extras = REST_EXTRAS.get(case.name, ()) if builder == "embedded" else ()
    built = build(mpack, case, "docker-rest", builder, locks, extras)
    remove_image(built["image"])
    assert built["verified"]["status"] == "passed"
    assert built["builder"] == builder
    name = f"mpack-test-{secrets.token_hex(8)}"
    with serve(built["image"], *HARD, "--user", NOBODY, "--name", name, "-p", "127.0.0.1::9000") as client:
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
        if builder == "embedded":
            sample = sample_of(case, lambda path: client.get(path).json())
            expected = rows_of(post_json(over_http(client), "/api/model/invoke", sample.body))
            asked[case.name] = sample, expected
            port = subprocess.run([engine, "port", name, "9000"], capture_output=True, text=True, check=True).stdout
            with grpc.insecure_channel(port.split()[0], [("grpc.enable_http_proxy", 0)]) as channel:
                roads = rest_roads(over_http(client), over_grpc(channel), case.expect["name"], sample)
                walk(case, roads, expected)


@pytest.mark.parametrize("builder", ["embedded", "docker"])
def test_cli(
    case: Any, builder: str, mpack: Any, engine: str, locks: Path, asked: Any, tmp_path: Path, remove_image: Any,
    assert_same: Any,
) -> None:  # fmt: skip
    """The reference's command, as written, in a directory of another user: the answer is there and is that user's."""
    extras = CLI_EXTRAS.get(case.name, ()) if builder == "embedded" else ()
    built = build(mpack, case, "docker-cli", builder, locks, extras)
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
    told = [engine, "run", "--rm", *HARD, "--user", "1234:1234", "-v", f"{volume}:/volume", built["image"], "predict"]
    if builder == "embedded" and case.name in asked:  # after test_rest, as in a run of the whole module
        walk(case, by_command(case, told, volume, asked[case.name][0]), asked[case.name][1])
        return
    result.unlink()
    done = subprocess.run([*told, "/volume/x.json", "/volume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(json.loads(result.read_text("utf-8")), case.expect["cli"]["answer"])


def by_command(case: Any, told: list[str], volume: Path, sample: Sample) -> dict[str, Road]:
    """The command line's four formats: those that are open in one run, each other in its own."""
    write_files(volume, sample.table, named=sample.named, request=sample.body, lines=sample.objects)
    for path in volume.iterdir():
        os.chown(path, 1234, 1234)

    def run(*files: str) -> None:
        done = subprocess.run([*told, *files, "/volume"], capture_output=True, text=True)
        good(Reply("OK" if done.returncode == 0 else done.returncode, done.stderr.encode()))

    def read(form: str) -> Rows:
        if closed(case.name, f"cli {form}"):
            run(f"/volume/{FILES[form]}")
        return read_result(volume / f"{Path(FILES[form]).stem}.results.{form}")

    run(*(f"/volume/{file}" for form, file in FILES.items() if not closed(case.name, f"cli {form}")))
    return {f"cli {form}": partial(read, form) for form in FILES}
