"""The base of packagers' arguments, a pydantic model; `mpack.packager.Arguments` is the name that packagers use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mpack.packager import DEFAULTS


class Arguments(BaseModel):
    """Base of a packager's arguments. Field names are what the user types after `-a`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    imageName: str = Field(
        default=DEFAULTS["imageName"],
        description="Image name, a Jinja2 template with Name, Version and RandomUUID.",
        min_length=1,
    )
    dockerfileBaseImage: str | None = Field(
        default=DEFAULTS["dockerfileBaseImage"],
        description="Base image; none: mpack picks one with the model's Python.",
    )
