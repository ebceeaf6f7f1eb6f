"""The arguments of a manifest as those of a build."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Arguments of ODAHU's first packagers, which their code does not read either.
_OF_OLD = ("dockerfilePush", "dockerfileAddCondaInstallation", "dockerfileCondaEnvsLocation")
#: The image with an empty conda environment that ODAHU's packagers build on where nobody says otherwise.
_CONDA_BASE = "odahu-flow-docker-packager-base"
#: The server that ODAHU's integration names by default; no model's Python is in it.
_OLD_TRITON = "20.11-py3"


def build_arguments(arguments: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The packager's arguments as `mpack build -a` has them, and a sentence for each that is not used.

    `arguments` are the integration's defaults and the manifest's together, `given` the manifest's alone.
    """
    found, notes = {}, []
    for name, value in arguments.items():
        if name in _OF_OLD:
            notes.append(f"the argument {name} is not used: images have no conda")
        elif name == "dockerfileBaseImage" and name not in given and _repository(value) == _CONDA_BASE:
            notes.append(f"the integration's {name} {value} is not used: mpack picks a base with the model's Python")
        elif name == "triton_base_image_tag" and name not in given and value == _OLD_TRITON:
            notes.append(f"the integration's {name} {value} is not used: mpack picks a server that fits the model")
        elif value is not None:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found, notes


def _repository(reference: Any) -> str:
    return str(reference).rpartition("/")[2].partition(":")[0]
