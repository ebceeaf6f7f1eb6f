"""Manifests that are right, and a table of those that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpack.errors import UsageError
from mpack.manifests import CheckedPackaging, ManifestError, Manifests, Resources, check_packaging, read_manifests

FIXTURES = Path(__file__).parents[2] / "fixtures" / "manifests"
BROKEN = FIXTURES / "broken"
EXPECTED: dict[str, list[str]] = json.loads((BROKEN / "expected.json").read_text("utf-8"))


def checked(text: str, tmp_path: Path, **options: object) -> CheckedPackaging:
    """The only packaging of a file with this text."""
    path = tmp_path / "m.yaml"
    path.write_text(text, "utf-8")
    return check_packaging(read_manifests([path]), None, **options)  # type: ignore[arg-type]


def faults(text: str, tmp_path: Path, **options: object) -> list[str]:
    """ "FIELD: MESSAGE" of each fault."""
    with pytest.raises(ManifestError) as caught:
        checked(text, tmp_path, **options)
    return [f"{fault.field}: {fault.message}" for fault in caught.value.faults]


@pytest.fixture
def everything() -> Manifests:
    return read_manifests([], [FIXTURES / "kinds"])


def test_the_table_is_whole() -> None:
    """Every broken manifest has its messages in the table, and there are many."""
    assert sorted(EXPECTED) == sorted(path.name for path in BROKEN.iterdir() if path.name != "expected.json")
    assert len(EXPECTED) >= 40


@pytest.mark.parametrize("name", EXPECTED)
def test_broken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken manifest is refused with all of its faults, each with line and field, and no other."""
    monkeypatch.chdir(BROKEN)
    with pytest.raises(ManifestError) as caught:
        check_packaging(read_manifests([name]))
    told = [name + rest for rest in EXPECTED[name]]
    assert [str(fault) for fault in caught.value.faults] == told
    assert caught.value.message.splitlines()[-len(told) :] == told
    assert caught.value.code == "manifest-invalid"
    assert caught.value.exit_code == 1


def test_all_faults_of_all_files_at_once() -> None:
    """Faults of several files and of a directory's come in one error, as data too; a long list is cut."""
    with pytest.raises(ManifestError) as caught:
        read_manifests([BROKEN / "tab.yaml", BROKEN / "missing.yaml"], [BROKEN])
    found = caught.value.faults
    assert len({fault.file for fault in found}) > 50
    assert f"… and {len(found) - 50} more." in caught.value.message
    told = caught.value.to_json()
    assert told["faults"][0] == {
        "file": str(BROKEN / "tab.yaml"),
        "document": 1,
        "line": 4,
        "field": "",
        "message": "it is not YAML: a tab stands where YAML wants spaces",
    }


def test_every_kind(everything: Manifests) -> None:
    """Documents of every kind are read, and those of a cluster are passed over and told."""
    assert sorted(everything.packagings) == ["wine", "wine-triton"]
    assert sorted(everything.integrations) == ["team-rest"]
    assert {item.type for item in everything.connections.values()} == {"docker", "ecr", "s3", "gcs", "azureblob", "git"}
    assert [kind for kind, _, _ in everything.passed_over] == [
        *("ModelTraining", "ToolchainIntegration", "ModelDeployment"),
        *("ModelRoute", "InferenceService", "InferenceJob"),
    ]
    assert everything.passed_over[0][1] == "wine-training"


def test_a_packaging_with_an_integration_of_its_own(everything: Manifests) -> None:
    """Defaults first, then the manifest's; a target's default connection; what means nothing here is told."""
    found = check_packaging(everything, "wine")
    assert found.packager == "docker-rest"
    assert dict(found.arguments) == {"host": "0.0.0.0", "port": 8080, "workers": 4}
    assert found.push is not None and found.push.uri == "registry.example.com/team"
    assert found.pull is None
    assert found.output is not None and found.output.type == "s3"
    assert found.resources == Resources(2.0, 0.5, 4 << 30, 10**9)
    told = "\n".join(found.warnings)
    for name in ("dockerfileAddCondaInstallation", "packager-base", "nodeSelector", "limits.gpu", "spec.image"):
        assert name in told
    assert "resources.limits.cpu" not in told


@pytest.mark.parametrize(
    ("name", "value", "stays"),
    [
        ("dockerfileBaseImage", "quay.example/odahu-flow-docker-packager-base:1.7.1", False),
        ("dockerfileBaseImage", "odahu-flow-docker-packager-base", False),
        ("dockerfileBaseImage", "team/my-odahu-flow-docker-packager-base-cache:1", True),
        ("triton_base_image_tag", "20.11-py3", False),
        ("triton_base_image_tag", "25.08-py3", True),
        ("imageName", "20.11-py3", True),
    ],
)
def test_defaults_of_odahus_own_integrations(name: str, value: str, stays: bool, tmp_path: Path) -> None:
    """Those that no image of mpack's has a use for are left out and told; a packaging that gives them is obeyed."""
    parameters = f"[{{name: type, value: string}}, {{name: default, value: '{value}'}}]"
    text = f"""
kind: PackagingIntegration
id: theirs
spec:
  entrypoint: /usr/local/bin/odahu-flow-pack-to-triton
  defaultImage: x
  schema: {{arguments: {{properties: [{{name: {name}, parameters: {parameters}}}]}}}}
---
kind: ModelPackaging
id: w
spec: {{integrationName: theirs, artifactName: w}}
"""
    found = checked(text, tmp_path)
    assert dict(found.arguments) == ({name: value} if stays else {})
    assert bool(found.warnings) != stays
    given = checked(text.replace("artifactName: w", f"artifactName: w, arguments: {{{name}: '{value}'}}"), tmp_path)
    assert dict(given.arguments) == {name: value}


def test_a_built_in_integration(everything: Manifests) -> None:
    """docker-triton is there without a manifest; a list in JSON is several documents."""
    found = check_packaging(everything, "wine-triton")
    assert found.packager == "docker-triton"
    assert found.arguments["triton_base_image_tag"] == "20.11-py3"
    assert found.packaging.where.document == 1


def test_connections(everything: Manifests) -> None:
    """Secrets are references that no repr shows; the region of ECR is that of its registry."""
    found = everything.connections
    secret = found["docker-ci"].password
    assert secret is not None and secret.reveal() == "password"
    assert found["ecr"].region == "eu-central-1"
    assert found["docker-local"].password is None
    assert "cGFzc3dvcmQ" not in repr(everything) and "'password'" not in repr(everything)


def test_choosing(everything: Manifests) -> None:
    """A packaging is named by its id, or is the only one."""
    with pytest.raises(UsageError, match="2 ModelPackagings were found") as caught:
        check_packaging(everything)
    assert "wine, wine-triton" in caught.value.hint
    with pytest.raises(UsageError, match="has the id win"):
        check_packaging(everything, "win")
    with pytest.raises(UsageError, match="No ModelPackaging was found"):
        check_packaging(Manifests({}, {}, {}))


PACKAGING = """kind: ModelPackaging
id: wine
spec:
  integrationName: docker-rest
  outputConnection: models
  targets: [{name: docker-push, connectionName: docker-ci}]
"""


def test_what_the_command_line_changes(tmp_path: Path) -> None:
    """Another artifact; targets left out, also required ones; the artifact's store not looked for."""
    assert len(faults(PACKAGING, tmp_path)) == 3
    found = checked(PACKAGING, tmp_path, artifact_name="wine", targets=False, output=False)
    assert (found.artifact_name, found.push, found.output) == ("wine", None, None)
    found = checked(PACKAGING, tmp_path, artifact_name="w", disabled_targets=["docker-push"], output=False)
    assert found.push is None
    with pytest.raises(UsageError, match="no target docker-psuh to disable"):
        checked(PACKAGING, tmp_path, artifact_name="w", disabled_targets=["docker-psuh"], output=False)
    assert faults(PACKAGING, tmp_path, artifact_name="w", disabled_targets=["docker-push"]) == [
        "spec.outputConnection: no connection is called models"
    ]


BOUNDED = """kind: ModelPackaging
id: w
spec: {{integrationName: docker-cli, artifactName: w, resources: {{limits: {}}}}}
"""


@pytest.mark.parametrize(
    ("written", "cpu", "memory"),
    [
        ('{cpu: 1, memory: "1024"}', 1.0, 1024),
        ('{cpu: "1.5", memory: 512Mi}', 1.5, 512 << 20),
        ("{cpu: 100m, memory: 1G}", 0.1, 10**9),
        ("{cpu: 1e-1, memory: 1e3}", 0.1, 1000),
        ("{cpu: .5, memory: 1.5Gi}", 0.5, 3 << 29),
        ("{cpu: 2000000000n, memory: 1E9}", 2.0, 10**9),
        ("{cpu: 0.1, memory: 1000.5}", 0.1, 1001),
        ('{cpu: "", memory: null}', None, None),
    ],
)
def test_quantities(written: str, cpu: float | None, memory: int | None, tmp_path: Path) -> None:
    """Kubernetes' quantities, in quotes or not; bytes are rounded up."""
    found = checked(BOUNDED.format(written), tmp_path, targets=False).resources
    assert (found.cpu_limit, found.memory_limit) == (cpu, memory)


@pytest.mark.parametrize("written", ["1 Gi", "1gi", "+1", "1KB", "0x10", "1e", "12:30", "1.2.3", "1e999", "9E9E"])
def test_no_quantities(written: str, tmp_path: Path) -> None:
    """What Kubernetes does not read, or does not count to, is refused."""
    found = faults(BOUNDED.format(f"{{memory: {written}}}"), tmp_path)
    assert [line.partition(":")[0] for line in found] == ["spec.resources.limits.memory"]


@pytest.mark.parametrize("entrypoint", ["docker-cli", "/opt/docker-cli", "/usr/local/bin/odahu-flow-pack-to-cli/"])
def test_entrypoints(entrypoint: str, tmp_path: Path) -> None:
    """The last part of the path says which packager; an installed one's name does too."""
    text = f"""
kind: PackagingIntegration
id: mine
spec: {{entrypoint: {entrypoint}, defaultImage: x}}
---
kind: ModelPackaging
id: w
spec: {{integrationName: mine, artifactName: w}}
"""
    assert checked(text, tmp_path).packager == "docker-cli"


def test_merges_and_anchors_are_read(tmp_path: Path) -> None:
    """Anchors and merges as people write them; a key beside the merge wins, wherever it stands."""
    text = """
kind: ModelPackaging
id: w
spec:
  integrationName: docker-rest
  artifactName: w
  arguments: {<<: &usual {workers: 2, threads: 1}, workers: 3}
  resources: {limits: &bounds {cpu: 2}, requests: *bounds}
"""
    found = checked(text, tmp_path, targets=False)
    assert dict(found.arguments) == {"workers": 3, "threads": 1}
    assert found.resources.cpu_request == 2


def test_texts_that_look_like_something_else(tmp_path: Path) -> None:
    """A date and a number are texts as they are written, unless YAML reads something else there."""
    text = "kind: ModelPackaging\nid: w\nspec: {integrationName: docker-rest, artifactName: 2024-01-01}"
    assert checked(text, tmp_path, targets=False).artifact_name == "2024-01-01"
    assert checked(text.replace("2024-01-01", "1.0"), tmp_path, targets=False).artifact_name == "1.0"
    reason = "it must be a text, and YAML reads 1.10 as 1.1: write it in quotes"
    assert faults(text.replace("2024-01-01", "1.10"), tmp_path) == [f"spec.artifactName: {reason}"]
