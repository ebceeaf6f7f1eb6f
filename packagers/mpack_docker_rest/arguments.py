"""The arguments of docker-rest."""

from __future__ import annotations

from pydantic import Field

from mpack.packager import Arguments
from mpack_docker_rest.packager import DEFAULTS


class RestArguments(Arguments):
    """Arguments of docker-rest, named and typed as ODAHU's docker-rest integration has them, and a few more."""

    port: int = Field(default=DEFAULTS["port"], ge=1, le=65535, description="TCP port the service listens on.")
    timeout: int = Field(default=DEFAULTS["timeout"], ge=1, le=86400, description="Seconds a request may take.")
    workers: int = Field(default=DEFAULTS["workers"], ge=1, le=512, description="gunicorn worker processes.")
    threads: int = Field(default=DEFAULTS["threads"], ge=1, le=512, description="Threads of each worker.")
    host: str = Field(default=DEFAULTS["host"], min_length=1, description="Address the service binds.")
    strict: bool = Field(default=DEFAULTS["strict"], description="Refuse columns that the signature does not name.")
    maxBodyBytes: int = Field(
        default=DEFAULTS["maxBodyBytes"], ge=1024, description="Largest request body, after decompression."
    )
    arrow: bool = Field(default=DEFAULTS["arrow"], description="Arrow streams in and out; adds pyarrow (152 MB).")
