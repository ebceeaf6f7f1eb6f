"""References to secrets: how they are written, where they are looked up, and that nothing shows them."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import keyring.backend
import keyring.backends.fail
import pytest

from mpack.cli.report import report_error
from mpack.connections import Connection, Secret, parse_secret
from mpack.errors import EnvironmentFault, MpackError
from mpack.manifests.faults import Fault, ManifestError
from mpack.redaction import hide, redact

FIELD = "spec.password of docker-ci"
#: Found by nothing else in these tests.
PLANTED = "hunter2-s3cr@t/p:ss wörd"


@pytest.fixture(autouse=True)
def nothing_revealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests reveal is hidden in these tests alone."""
    monkeypatch.setattr("mpack.redaction._known", set())
    monkeypatch.setattr("mpack.redaction._forms", set())


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b64(PLANTED), PLANTED),
        (b64("ends with a newline\n"), "ends with a newline\n"),
        (b64("${MPACK_PLANTED}"), "${MPACK_PLANTED}"),  # what is inside base64 is the secret itself
        ("${MPACK_PLANTED}", "from the variable"),
        ("file:secret", "from the file"),
        ("file:crlf", "from another file"),
        ("file:two", "one newline is cut\n"),
    ],
)
def test_forms(text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form of a reference gives its secret, paths relative to the manifest."""
    monkeypatch.setenv("MPACK_PLANTED", "from the variable")
    for name, content in (
        ("secret", "from the file\n"),
        ("crlf", "from another file\r\n"),
        ("two", "one newline is cut\n\n"),
    ):
        (tmp_path / name).write_bytes(content.encode())
    assert parse_secret(text, FIELD, tmp_path).reveal() == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (PLANTED, "is not base64 of UTF-8 text"),
        ("hunter2", "is not base64 of UTF-8 text"),
        (b64("x") + "\n", "is not base64 of UTF-8 text"),
        (base64.b64encode(b"\xff\xfe").decode(), "is not base64 of UTF-8 text"),
        ("$HOME", "begins with $, and is not ${NAME}"),
        ("${HOME", "begins with $, and is not ${NAME}"),
        ("${A}${B}", "begins with $, and is not ${NAME}"),
        ("file:", "names no file"),
        ("file:~nobody-of-that-name/x", "names a file in a home directory that is not known"),
        ("keyring:ci", "does not name a service and a user"),
        ("keyring:/me", "does not name a service and a user"),
    ],
)
def test_refused(text: str, why: str) -> None:
    """What is no reference is refused by the field's name, and is itself in no word of the error."""
    with pytest.raises(MpackError) as caught:
        parse_secret(text, FIELD)
    assert caught.value.code == "connection-invalid" and caught.value.message.startswith(f"{FIELD} {why}")
    assert caught.value.__cause__ is None and "hunter2" not in str(caught.value)


def test_variables_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that a connection names is for mpack alone; one that other programs know by its name is theirs too."""
    names = ("MPACK_PLANTED", "DOCKER_PASSWORD", "AWS_PLANTED")
    for name in names:
        monkeypatch.setenv(name, PLANTED)
    secrets = [parse_secret(f"${{{name}}}", FIELD) for name in (*names, "MPACK_PLANTED")]
    told = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert "MPACK_PLANTED" not in told and "DOCKER_PASSWORD" not in told and f"AWS_PLANTED={PLANTED}" in told
    assert [secret.reveal() for secret in secrets] == [PLANTED] * 4


class Kept(keyring.backend.KeyringBackend):
    """A keyring of one entry; the real library around it."""

    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        return PLANTED if (service, username) == ("registry.example", "ci/bot") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise AssertionError("mpack writes nothing into a keyring")


def test_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's keyring is asked for SERVICE and USER; an entry, a keyring or a library that is not there is told."""
    monkeypatch.setattr("keyring.core._keyring_backend", Kept())
    secret = parse_secret("keyring:registry.example/ci/bot", FIELD)
    assert secret.reveal() == PLANTED
    with pytest.raises(MpackError, match="and there is none") as caught:
        parse_secret("keyring:registry.example/another", FIELD).reveal()
    assert caught.value.hint == "Put it there with `keyring set registry.example another`."
    monkeypatch.setattr("keyring.core._keyring_backend", keyring.backends.fail.Keyring())
    with pytest.raises(MpackError, match="NoKeyringError") as caught:
        secret.reveal()
    assert caught.value.code == "secret-unavailable"
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(MpackError, match="keyring is not installed") as caught:
        secret.reveal()
    assert caught.value.code == "tool-missing" and "mpack[keyring]" in caught.value.hint


def large(path: Path) -> None:
    path.write_bytes(b"x" * (2 << 20))


@pytest.mark.parametrize(
    ("make", "text", "said"),
    [
        (lambda path: None, "file:secret", "No such file"),
        (lambda path: path.write_text("\n"), "file:secret", "which is empty"),
        (lambda path: path.write_bytes(b"\xff"), "file:secret", "not UTF-8"),
        (lambda path: path.mkdir(), "file:secret", "Is a directory"),
        (large, "file:secret", "more than 1 MB"),
        (lambda path: None, "${MPACK_ABSENT}", "the variable MPACK_ABSENT, which is not set"),
        (lambda path: None, "${MPACK_EMPTY}", "the variable MPACK_EMPTY, which is empty"),
    ],
)
def test_not_there(
    make: Callable[[Path], object], text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that is not where its reference says is the environment's fault, when it is used and not before."""
    monkeypatch.setenv("MPACK_EMPTY", "")
    make(tmp_path / "secret")
    secret = parse_secret(text, FIELD, tmp_path)
    with pytest.raises(MpackError, match=said) as caught:
        secret.reveal()
    assert (caught.value.code, caught.value.exit_code) == ("secret-unavailable", 3) and FIELD in caught.value.message


def test_readable_by_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of this user's that every user may read is warned of; one of his alone is not."""
    for mode, warned in ((0o600, False), (0o640, False), (0o644, True)):
        (tmp_path / "secret").write_text(PLANTED)
        os.chmod(tmp_path / "secret", mode)
        assert parse_secret("file:secret", FIELD, tmp_path).reveal() == PLANTED
        said = capsys.readouterr().err
        assert ("every user may read" in said) is warned and PLANTED not in said


def test_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a connection nor its secrets show a secret by repr, str, copy or pickle."""
    secret = parse_secret(b64(PLANTED), FIELD)
    connection = Connection("docker-ci", "docker", "localhost:5000", username="ci", password=secret)
    for item in (secret, connection, copy.deepcopy(connection), [connection]):
        assert not any(word in f"{item!r}{item!s}" for word in (PLANTED, "hunter2", b64(PLANTED)))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(connection)
    assert repr(secret) == f"Secret(source={FIELD!r})"


def test_redacted() -> None:
    """What was revealed is not in a text that was redacted, in whichever way it stood there; all else stays."""
    planted = f"another-{PLANTED}"
    assert redact(f"not revealed yet: {planted[:12]}") == f"not revealed yet: {planted[:12]}"
    Secret("a test", lambda: planted).reveal()
    shapes = {
        "plain": planted,
        "base64": b64(planted),
        "basic": b64(f"someone:{planted}"),
        "amid": b64(f"ab{planted}cd"),
        "url": f"https://ci:{quote(planted, safe='')}@host/x",
        "json": json.dumps({"password": planted}),
        "repr": repr({"password": planted.encode()}),
    }
    for name, shape in shapes.items():
        shown = redact(f"before {shape} after")
        assert shown.startswith("before ") and shown.endswith(" after") and "*****" in shown, name
        assert not any(part in shown for part in ("hunter2", "s3cr", *(b64(planted[n:])[:12] for n in (0, 1, 2)))), name
    hide("-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nab\n-----END KEY-----\n")
    assert redact("a line of a key, MIIEvQIBADANBgkqhkiG9w0, by itself") == "a line of a key, *****, by itself"
    hide("abc")
    assert (
        redact("abc is too short to be told from other words: ab") == "abc is too short to be told from other words: ab"
    )


def test_errors_are_printed_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    """Message, hint, JSON and the traceback of --debug have ***** for what was revealed; code and other fields stay."""
    secret = Secret("a test", lambda: "registry-failed").reveal()
    fault = EnvironmentFault("registry-failed", f"It said {secret}.", f"Not {secret}?")
    fault.__cause__ = ValueError(b64(f"me:{secret}"))
    assert report_error(fault, debug=True, as_json=True) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == {"code": secret, "message": "It said *****.", "hint": "Not *****?"}
    assert "mpack: It said *****.\n  Not *****?\n" in err and "EnvironmentFault: It said *****." in err
    assert secret not in err and "ValueError: " in err and b64(secret)[4:-4] not in err
    faults = ManifestError([Fault(Path("a.yaml"), "is wrong", "spec")])
    assert report_error(faults, debug=False, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["error"]["faults"]
