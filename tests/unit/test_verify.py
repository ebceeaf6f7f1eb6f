"""What mpack makes of an image's self-check, with a hand-written box in place of a running image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from mpack.builders import BuiltImage
from mpack.errors import VerificationError
from mpack.plan import BaseImage
from mpack.sandbox import Completed, memory_limit, this_platform
from mpack.verify import Verification, bytecode_of, require_passed, run_self_check, skip_reason

PASSED = {"status": "passed", "against": "expected", "max_rel_diff": 1e-9, "reason": None}


@dataclass
class FakeBox:
    """Answers every run with one result and remembers the arguments."""

    result: Completed
    asked: list[list[str]] = field(default_factory=list)

    def run(
        self, args: Sequence[str], *, entrypoint: Sequence[str] = (), stdin: bytes = b"", timeout: float = 600
    ) -> Completed:
        self.asked.append(list(args))
        return self.result


def image(location: str) -> BuiltImage:
    return BuiltImage("sha256:abc", "linux/amd64", "any", location, (), 0)


def box(value: object, code: int = 0, stderr: str = "") -> FakeBox:
    text = value if isinstance(value, str) else json.dumps(value)
    return FakeBox(Completed(code, text.encode(), stderr))


def test_passed() -> None:
    """A passed check keeps its figures, the interpreter and the modules."""
    fake = box({**PASSED, "python": "3.11.2", "modules": ["/a.py"]})
    check = run_self_check(fake, modules=True)
    assert check.verification == Verification("passed", "expected", 1e-9, None)
    assert (check.python, check.modules) == ("3.11.2", ("/a.py",))
    assert fake.asked == [["self-check", "--modules"]]


def test_noise_before_the_json() -> None:
    """Only the last line counts: a library may have printed before."""
    check = run_self_check(box("hello\n" + json.dumps(PASSED)))
    assert check.verification.status == "passed"


def test_killed() -> None:
    """What the kernel kills without a word is told as what it most likely was, with the limit."""
    reason = run_self_check(FakeBox(Completed(137, b"", "loading\n"))).verification.reason
    assert reason is not None and "memory" in reason and f"{memory_limit() / 1e6:.0f} MB" in reason


def test_refused_memory() -> None:
    """Where memory was refused, the limit is told as well; of another failure it is not."""
    for told, limited in (("MemoryError: Unable to allocate 9 GiB.", True), ("ValueError: x", False)):
        failed = {**PASSED, "status": "failed", "against": "load", "reason": told}
        reason = run_self_check(box(failed, 4)).verification.reason or ""
        assert reason.startswith(told.rstrip(".")) and (f"{memory_limit() / 1e6:.0f} MB of memory" in reason) == limited


@pytest.mark.parametrize("text", ["", "no json", "{}", "[]", '{"status": "great", "against": 1}', "null"])
def test_nonsense_has_failed(text: str) -> None:
    """An image that prints no or another JSON has failed, with its last words as the reason."""
    check = run_self_check(box(text, 1, "Traceback\nImportError: no module named x\n"))
    assert check.verification.status == "failed"
    assert "ImportError: no module named x" in (check.verification.reason or "")


def test_time_out_is_named() -> None:
    """A check that does not end has failed with the time in its reason."""
    assert "did not end within 900 s" in (run_self_check(box("", 124)).verification.reason or "")


def test_passed_with_a_bad_exit_code_has_failed() -> None:
    """The words "passed" do not outweigh an exit code."""
    assert run_self_check(box(PASSED, 3)).verification.status == "failed"


def test_require_passed() -> None:
    """A failed verification is exit 4 and says where the image is; skipped and passed go on."""
    require_passed(Verification("passed"), image("store"))
    require_passed(Verification("skipped"), image("store"))
    with pytest.raises(VerificationError, match=r"prediction\[0\]: expected 1") as caught:
        require_passed(Verification("failed", "expected", 0.5, "prediction[0]: expected 1, got 2"), image("store"))
    assert caught.value.exit_code == 4
    assert "sha256:abc" in caught.value.hint and "`mpack rm`" in caught.value.hint


@pytest.mark.parametrize(
    ("against", "trimmed", "told"), [("load", True, True), ("load", False, False), ("expected", True, False)]
)
def test_a_trimmed_image_that_does_not_answer(against: str, trimmed: bool, told: bool) -> None:
    """It may lack a file, and the hint says how to keep all; another answer is not for want of a file."""
    with pytest.raises(VerificationError) as caught:
        require_passed(Verification("failed", against), image("store"), trimmed=trimmed)
    assert ("--no-trim" in caught.value.hint) is told


def test_a_failed_image_of_the_engine_is_removed_there() -> None:
    """What docker built is docker's to remove."""
    with pytest.raises(VerificationError) as caught:
        require_passed(Verification("failed"), image("docker"))
    assert "`docker image rm`" in caught.value.hint


def test_foreign_platform_is_skipped() -> None:
    """An image of another machine, or no sandbox, is a reason to skip."""
    assert "this machine is" in (skip_reason("linux/s390x", None) or "")
    assert skip_reason("linux/s390x", None) != skip_reason(this_platform(), None)
    assert skip_reason(this_platform() + "/v8", None) == skip_reason(this_platform(), None)


def test_bytecode_leaves_the_model_out() -> None:
    """Compiled are environment, runtime, the base's packages and its standard library; not the model's files."""
    base = BaseImage("b", "sha256:0", "linux/amd64", "/usr/bin/python3.11", "3.11.2", ("/usr/local/lib/x",))
    modules = (
        "/opt/mpack/venv/lib/python3.11/site-packages/a.py",
        "/opt/mpack/runtime/mpack_runtime/b.py",
        "/usr/lib/python3.11/json/decoder.py",
        "/usr/local/lib/x/c.py",
        "/opt/mpack/model/code/d.py",
        "/tmp/e.py",
        "/usr/lib/python3.11/../evil.py",
        "/usr/lib/python3.11/f.so",
    )
    result = bytecode_of(run_self_check(box({**PASSED, "python": "3.11.2", "modules": list(modules)})), base, trim=True)
    assert result.sources == tuple(sorted(modules[:4]))
    assert (result.python_version, result.short_docstrings) == ("3.11.2", True)
