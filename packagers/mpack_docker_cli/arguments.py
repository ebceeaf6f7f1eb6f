"""The arguments of docker-cli."""

from __future__ import annotations

from pydantic import Field, field_validator

from mpack.packager import Arguments
from mpack_docker_cli.packager import DEFAULTS, FORMATS


class CliArguments(Arguments):
    """Arguments of docker-cli, named and typed as ODAHU's docker-cli integration has them, and two more."""

    formats: str = Field(
        default=DEFAULTS["formats"], description="File formats; parquet adds pyarrow (152 MB), faster on CSV too."
    )
    strict: bool = Field(default=DEFAULTS["strict"], description="Refuse columns that the signature does not name.")

    @field_validator("formats")
    @classmethod
    def _known(cls, value: str) -> str:
        words = [word.strip() for word in value.split(",")]
        unknown = [word for word in words if word not in FORMATS]
        if unknown:
            raise ValueError(f"unknown format {unknown[0]!r}; known are {', '.join(FORMATS)}")
        return ",".join(word for word in FORMATS if word in words or word == "json")
