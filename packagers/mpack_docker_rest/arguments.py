"""The arguments of docker-rest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from mpack.packager import Arguments
from mpack_docker_rest.packager import DEFAULTS, GRPC_PORT


class RestArguments(Arguments):
    """Arguments of docker-rest, named and typed as ODAHU's docker-rest integration has them, and a few more."""

    port: int = Field(default=DEFAULTS["port"], ge=1, le=65535, description="TCP port the service listens on.")
    timeout: int = Field(default=DEFAULTS["timeout"], ge=1, le=86400, description="Seconds a request may take.")
    workers: Annotated[int, Field(ge=1, le=512)] | Literal["auto"] = Field(
        default=DEFAULTS["workers"], description="gunicorn worker processes; auto: as many as fit."
    )
    threads: int = Field(default=DEFAULTS["threads"], ge=1, le=512, description="Predictions of each worker at once.")
    host: str = Field(default=DEFAULTS["host"], min_length=1, description="Address the service binds.")
    strict: bool = Field(default=DEFAULTS["strict"], description="Refuse columns that the signature does not name.")
    maxBodyBytes: int = Field(
        default=DEFAULTS["maxBodyBytes"], ge=1024, description="Largest request body, after decompression."
    )
    grpc: bool = Field(default=DEFAULTS["grpc"], description="Answer V2 over gRPC too, on port 9000 (grpcio, 22 MB).")
    arrow: bool = Field(default=DEFAULTS["arrow"], description="Arrow streams in and out; adds pyarrow (152 MB).")
    queue: int = Field(
        default=DEFAULTS["queue"], ge=0, le=4096, description="Predictions of a worker that wait; more are refused."
    )
    queueTimeout: int = Field(
        default=DEFAULTS["queueTimeout"], ge=1, le=86400, description="Seconds a prediction waits for its turn."
    )
    batching: Literal["auto", "on", "off"] = Field(
        default=DEFAULTS["batching"],
        description="Ask what waits as one; auto: where that pays and changes no answer.",
    )
    maxBatchRows: int | None = Field(
        default=DEFAULTS["maxBatchRows"], ge=1, description="Most rows of a request, and of requests asked as one."
    )
    maxBatchDelay: int = Field(
        default=DEFAULTS["maxBatchDelay"],
        ge=0,
        le=60000,
        description="Milliseconds that a prediction waits for others to be asked with.",
    )
    jwt: bool = Field(default=DEFAULTS["jwt"], description="Adds PyJWT (16 MB), for MPACK_AUTH_JWKS.")
    logStorage: Literal["s3", "gs", "abfs"] | None = Field(
        default=DEFAULTS["logStorage"], description="Adds what an MPACK_LOG_DIR of s3://, gs:// or abfs:// needs."
    )
    tracing: bool = Field(default=DEFAULTS["tracing"], description="Adds OpenTelemetry (8 MB), for traces.")

    @field_validator("workers", mode="wrap")
    @classmethod
    def _workers(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        """One sentence for both of the forms that it may have."""
        try:
            return check(value)
        except ValidationError:
            raise ValueError("it must be a whole number from 1 to 512, or auto") from None

    @model_validator(mode="after")
    def _ports_differ(self) -> RestArguments:
        if self.grpc and self.port == GRPC_PORT:
            raise ValueError(f"port is {GRPC_PORT}, which is gRPC's; give another one")
        return self
