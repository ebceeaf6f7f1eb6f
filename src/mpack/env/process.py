"""Running uv and pip: settings in the environment only, the child stopped with us, its errors in our words."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpack.env.index import IndexSettings
from mpack.errors import EnvironmentFault, MpackError

#: Settings of the user that change how uv works, not what it answers; the rest of UV_* and PIP_* stays outside.
_KEPT = ("UV_CACHE_DIR", "UV_NO_CACHE", "UV_OFFLINE", "UV_HTTP_RETRIES", "UV_EXCLUDE_NEWER", "PIP_CACHE_DIR")
_UNREACHABLE = re.compile(
    r"error sending request|Failed to fetch|tcp connect error|dns error|certificate|timed out|timeout|"
    r"\b(401|403|407|429|5\d\d) |Unauthorized|Forbidden|network connectivity is disabled|Could not resolve host|"
    r"connection (refused|reset)|tls handshake|could not be queried",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(401|403)\b|Unauthorized|Forbidden|lack of valid authentication", re.IGNORECASE)


def uv_binary() -> str:
    """The path of the uv program that the `uv` distribution brings. Raises EnvironmentFault tool-missing."""
    import uv

    try:
        return str(uv.find_uv_bin())
    except FileNotFoundError as error:
        raise EnvironmentFault(
            "tool-missing", "The uv program is not installed beside mpack.", "Install it: pip install uv"
        ) from error


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with its own uv, pip and Python settings replaced by `settings`."""
    dropped = (
        "UV_",
        "PIP_",
        "PYTHON",
        "VIRTUAL_ENV",
        "CONDA_",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    )
    kept = {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith(dropped)}
    for key in settings:
        kept.pop(key.lower(), None)  # a lower-case proxy variable would win over ours
    return {**kept, "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "UV_NO_PROGRESS": "1", **settings}


def run(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, str]:
    """Runs a command to its end: (exit code, what it wrote to stdout and stderr).

    On an interruption the child and its own children are stopped before the exception goes on. Output goes
    through a file, so a grandchild that keeps a pipe open cannot hold us.
    """
    with tempfile.TemporaryFile(dir=cwd) as output:
        child = subprocess.Popen(
            list(command),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait()
        except BaseException:
            _stop(child)
            raise
        output.seek(0)
        return code, output.read().decode("utf-8", "replace")


def _stop(child: subprocess.Popen[bytes]) -> None:
    import signal

    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(timeout=2)
            return
        except ProcessLookupError:
            child.wait()
            return
        except subprocess.TimeoutExpired:
            continue


def run_uv(arguments: Sequence[str], index: IndexSettings, cwd: Path, extra: Mapping[str, str]) -> tuple[int, str]:
    """Runs uv with the index settings: (exit code, output without secrets)."""
    env = child_environment({**index.uv_env(), "UV_PYTHON_DOWNLOADS": "never", **extra})
    code, output = run([uv_binary(), *arguments], env, cwd)
    return code, index.redact(output)


def fault(output: str, what: str) -> MpackError | None:
    """The environment's fault that uv's or pip's (redacted) output tells of, or None if it tells of none."""
    if "No space left on device" in output or "os error 28" in output:
        return EnvironmentFault(
            "disk-full", f"{what} failed: the disk is full.", "Free some space: mpack cache prune, or uv cache prune."
        )
    if not _UNREACHABLE.search(output):
        return None
    refused = re.search(r"hint: (An index URL .*could not be queried.*)", output)
    reason = refused[1] if refused else short(output)
    if _DENIED.search(output):
        return EnvironmentFault(
            "index-unreachable",
            f"{what} failed: the Python index refuses the credentials, or asks for some. {reason}",
            "Give them as for pip: in the index URL (PIP_INDEX_URL, pip.conf, UV_DEFAULT_INDEX) or in ~/.netrc.",
        )
    hint = "Check the index, proxy and CA settings; `mpack doctor` shows what is used."
    if "certificate" in output.lower():
        hint = "Name your CA bundle: SSL_CERT_FILE=FILE or PIP_CERT=FILE, or `cert` in pip.conf."
    return EnvironmentFault("index-unreachable", f"{what} failed: the Python index does not answer. {reason}", hint)


def short(output: str, limit: int = 600) -> str:
    """What uv or pip said, as one line: error and causes, without warnings, hints and progress."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    start = next((number for number, line in enumerate(lines) if line.lower().startswith("error")), 0)
    kept: list[str] = []
    for line in lines[start:]:
        if line.startswith("hint:"):
            break
        if not line.startswith("warning:"):
            kept.append(re.sub(r"^(error|cause|ERROR):\s*", "", line).rstrip("."))
    text = "; ".join(kept)
    return text[:limit] + ("…" if len(text) > limit else ".")
