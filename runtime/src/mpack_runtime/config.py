"""What to serve (/opt/mpack/model.json, written when the image is built) and how (environment, at `docker run`).

Imports no numpy: thread pools must be sized (`mpack_runtime.threads`) before numpy is imported.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpack_runtime import extras
from mpack_runtime.errors import LoadFailure, SettingsError
from mpack_runtime.signature import Signature

MODEL_JSON = "/opt/mpack/model.json"
SCHEMA = 1
#: The loader of a model.json that has none: a server of another's loads the model.
SERVER_LOADS = "server"


@dataclass(frozen=True)
class LoaderConfig:
    """`kind` is a module of mpack_runtime.loaders; `path` is relative to the model's root ("" is the root itself)."""

    kind: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """What the self-check asks. The files are pickles relative to the model's root; `tolerance` is relative."""

    request: Any = None
    input_file: str | None = None
    expected: Any = None
    output_file: str | None = None
    tolerance: float = 1e-6


@dataclass(frozen=True)
class ModelConfig:
    """model.json. `root` is the directory of the model's files, `model/` beside model.json."""

    name: str
    version: str
    loader: LoaderConfig
    root: Path
    signature: Signature | None = None
    sample: Sample | None = None
    strict: bool = False
    formats: tuple[str, ...] = ("json", "csv", "jsonl")
    arrow: bool = False
    #: What is asked of the model where a request names no method; "": what the loader's options say.
    method: str = ""
    #: All of model.json's "serving"; `mpack_runtime.triton.serving` reads what Triton's images have there.
    serving: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """What the loader loads: a file or a directory."""
        return self.root / self.loader.path if self.loader.path else self.root

    @classmethod
    def load(cls, path: str | Path | None = None) -> ModelConfig:
        """Reads model.json: `path`, else $MPACK_MODEL_JSON, else /opt/mpack/model.json. Raises LoadFailure."""
        where = Path(path or os.environ.get("MPACK_MODEL_JSON") or MODEL_JSON)
        try:
            data = json.loads(where.read_bytes())
        except (OSError, ValueError) as error:
            raise LoadFailure(f"The model's description {where} cannot be read: {error}.") from error
        try:
            return cls._from_json(data, where.parent / "model")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LoadFailure(
                f"The model's description {where} is not of the form that this runtime reads: {error!r}."
            ) from error

    @classmethod
    def _from_json(cls, data: Mapping[str, Any], root: Path) -> ModelConfig:
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')!r} is not {SCHEMA}")
        loader: Mapping[str, Any] = data["loader"] if data["loader"] is not None else {"kind": SERVER_LOADS, "path": ""}
        serving = data.get("serving") or {}
        return cls(
            name=str(data["name"]),
            version=str(data["version"]),
            loader=LoaderConfig(loader["kind"], loader["path"], loader.get("options") or {}),
            root=root,
            signature=Signature.from_json(data["signature"]) if data.get("signature") else None,
            sample=Sample(**data["sample"]) if data.get("sample") else None,
            strict=bool(serving.get("strict", False)),
            formats=tuple(serving.get("formats", ("json", "csv", "jsonl"))),
            arrow=bool(serving.get("arrow", False)),
            serving=serving,
        )


@dataclass(frozen=True)
class LogSettings:
    """What of requests and feedback is kept, below `directory`, which may be an object store's address: that share of
    the predictions (0 to 1), without the columns of `redact`, in files of about `rotate` bytes, or objects of `every`
    seconds at most."""

    directory: str
    sample: float = 1.0
    redact: frozenset[str] = frozenset()
    rotate: int = 100 << 20
    every: int = 60

    @property
    def is_url(self) -> bool:
        """True for an object store."""
        return "://" in self.directory


@dataclass(frozen=True)
class JwtSettings:
    """Tokens that `issuer` signed for one of `audience`, by keys of `jwks`, a file or an https URL."""

    jwks: str
    issuer: str
    audience: tuple[str, ...]


@dataclass(frozen=True)
class AuthSettings:
    """Who may ask: whoever has the token ("": there is none), or one that `jwt` takes. `health` and `metrics`: they
    need it too."""

    token: str = field(default="", repr=False)
    health: bool = False
    metrics: bool = True
    jwt: JwtSettings | None = None


@dataclass(frozen=True)
class LoadSettings:
    """What happens to predictions that the model has no time for: `queue` wait, `queue_timeout` seconds at most.

    `batching` is one of BATCHING; a joined call has `max_batch_rows` at most (None: as many as the runtime likes; a
    number limits each request too), and its first request waits `max_batch_delay` milliseconds for others.
    """

    queue: int = 64
    queue_timeout: int = 10
    batching: str = "auto"
    max_batch_rows: int | None = None
    max_batch_delay: int = 0


BATCHING = ("auto", "on", "off")


@dataclass(frozen=True)
class GrpcSettings:
    """V2 over gRPC on a port of its own; `calls` are those that a worker may have at once, waiting ones included."""

    port: int
    calls: int = 100


@dataclass(frozen=True)
class Settings:
    """How to serve. `timeout` is seconds, `max_body` bytes; `workers` None: as many as fit; `threads_per_worker` None:
    from the CPU limit; `log` None: nothing is kept; `auth` None: whoever reaches the port may ask; `grpc` None: HTTP
    alone."""

    host: str = "0.0.0.0"  # noqa: S104 - a server in a container listens on all of its interfaces
    port: int = 5000
    workers: int | None = 1
    threads: int = 4
    timeout: int = 60
    max_body: int = 100 << 20
    threads_per_worker: int | None = None
    log: LogSettings | None = None
    auth: AuthSettings | None = None
    load: LoadSettings = LoadSettings()
    grpc: GrpcSettings | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Reads the MPACK_… variables; an empty value means the default. Raises SettingsError."""
        env = os.environ if env is None else env
        threads = _whole(env, "MPACK_THREADS_PER_WORKER", 0, 0, 4096)
        host = env.get("MPACK_HOST") or cls.host
        if any(character.isspace() for character in host):
            raise SettingsError(f"MPACK_HOST is {host!r}; it must be a host name or an address to listen on.")
        return cls(
            host=host,
            port=_whole(env, "MPACK_PORT", cls.port, 1, 65535),
            workers=_workers(env),
            threads=_whole(env, "MPACK_THREADS", cls.threads, 1, 1024),
            timeout=_whole(env, "MPACK_TIMEOUT", cls.timeout, 1, 86400),
            max_body=_whole(env, "MPACK_MAX_BODY", cls.max_body, 1, 1 << 40),
            threads_per_worker=threads or None,
            log=_log(env),
            auth=_auth(env),
            load=_load(env),
            grpc=_grpc(env),
        )


def _load(env: Mapping[str, str]) -> LoadSettings:
    usual = LoadSettings
    batching = env.get("MPACK_BATCHING", "").strip().lower() or usual.batching
    if batching not in BATCHING:
        raise SettingsError(f"MPACK_BATCHING is {batching!r}; it must be {', '.join(BATCHING[:-1])} or {BATCHING[-1]}.")
    return LoadSettings(
        queue=_whole(env, "MPACK_QUEUE", usual.queue, 0, 4096),
        queue_timeout=_whole(env, "MPACK_QUEUE_TIMEOUT", usual.queue_timeout, 1, 86400),
        batching=batching,
        max_batch_rows=_whole(env, "MPACK_MAX_BATCH_ROWS", 0, 0, 1 << 40) or None,
        max_batch_delay=_whole(env, "MPACK_MAX_BATCH_DELAY", usual.max_batch_delay, 0, 60_000),
    )


def _workers(env: Mapping[str, str]) -> int | None:
    text = env.get("MPACK_WORKERS", "").strip()
    if text == "auto":
        return None
    if text and not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1024):
        raise SettingsError(f"MPACK_WORKERS is {text!r}; it must be a whole number from 1 to 1024, or auto.")
    return int(text) if text else Settings.workers


def _log(env: Mapping[str, str]) -> LogSettings | None:
    share = env.get("MPACK_LOG_SAMPLE", "").strip() or "1"
    if not re.fullmatch(r"0|1|1\.0*|0?\.[0-9]+", share, re.ASCII):
        raise SettingsError(f"MPACK_LOG_SAMPLE is {share!r}; it must be a number from 0 to 1.")
    rotate = _whole(env, "MPACK_LOG_ROTATE", LogSettings.rotate, 1 << 10, 1 << 40)
    names = frozenset(name for part in env.get("MPACK_LOG_REDACT", "").split(",") if (name := part.strip()))
    directory = env.get("MPACK_LOG_DIR", "")
    every = _whole(env, "MPACK_LOG_EVERY", LogSettings.every, 1, 3600)
    if "://" in directory and not re.fullmatch(r"[a-z0-9]+://[^/:]+(/.*)?", directory):
        # Not shown: it may hold a password.
        raise SettingsError("MPACK_LOG_DIR must be a directory, or an object store's address as s3://BUCKET/PATH.")
    return LogSettings(directory, float(share), names, rotate, every) if directory else None


def _auth(env: Mapping[str, str]) -> AuthSettings | None:
    health, metrics = _flag(env, "MPACK_AUTH_HEALTH", False), _flag(env, "MPACK_AUTH_METRICS", True)
    token, path = env.get("MPACK_AUTH_TOKEN", ""), env.get("MPACK_AUTH_TOKEN_FILE", "")
    if token and path:
        raise SettingsError("MPACK_AUTH_TOKEN and MPACK_AUTH_TOKEN_FILE are both set; give one of them.")
    if path:
        try:
            token = Path(path).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingsError(f"The file of MPACK_AUTH_TOKEN_FILE, {path}, cannot be read: {reason}.") from None
    name = "The file of MPACK_AUTH_TOKEN_FILE" if path else "MPACK_AUTH_TOKEN"
    if path and not token:
        raise SettingsError(f"{name}, {path}, is empty; it must hold the token.")
    if token and not re.fullmatch(r"[\x21-\x7e]{1,4096}", token):
        # The token itself is never shown: the log is no place for it.
        raise SettingsError(f"{name} holds no token: it must be printable ASCII without blanks.")
    jwt = _jwt(env)
    if jwt is not None and health and not token:
        raise SettingsError("MPACK_AUTH_HEALTH is true: the image's own health check needs MPACK_AUTH_TOKEN then.")
    return AuthSettings(token, health, metrics, jwt) if token or jwt else None


def _jwt(env: Mapping[str, str]) -> JwtSettings | None:
    jwks, issuer = env.get("MPACK_AUTH_JWKS", "").strip(), env.get("MPACK_AUTH_ISSUER", "").strip()
    audience = tuple(name for part in env.get("MPACK_AUTH_AUDIENCE", "").split(",") if (name := part.strip()))
    if not (jwks or issuer or audience):
        return None
    if not (jwks and issuer and audience):
        # A key set alone would let in whoever has a token of that issuer's for any other service.
        raise SettingsError(
            "MPACK_AUTH_JWKS, MPACK_AUTH_ISSUER and MPACK_AUTH_AUDIENCE belong together; set all three."
        )
    if "://" in jwks and not re.match(r"https://.|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?/", jwks):
        raise SettingsError(f"MPACK_AUTH_JWKS is {jwks!r}; it must be a file or an https URL.")
    if not (extras.has("jwt") and extras.has("cryptography")):
        raise SettingsError("MPACK_AUTH_JWKS is set, but this image has no PyJWT; build it with -a jwt=true.")
    return JwtSettings(jwks, issuer, audience)


def _grpc(env: Mapping[str, str]) -> GrpcSettings | None:
    calls = _whole(env, "MPACK_GRPC_CALLS", GrpcSettings.calls, 1, 1 << 20)
    port = _whole(env, "MPACK_GRPC_PORT", 0, 0, 65535)
    if port and port == _whole(env, "MPACK_PORT", Settings.port, 1, 65535):
        raise SettingsError(f"MPACK_GRPC_PORT and MPACK_PORT are both {port}; gRPC needs a port of its own.")
    return GrpcSettings(port, calls) if port else None


def _flag(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, "").strip().lower()
    if text not in ("", "true", "false", "1", "0"):
        raise SettingsError(f"{name} is {env[name]!r}; it must be true or false.")
    return text in ("true", "1") if text else default


def _whole(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise SettingsError(f"{name} is {text!r}; it must be a whole number from {low} to {high}.")
    return int(text)
