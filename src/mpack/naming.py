"""Image names: a Jinja2 template with Name, Version and RandomUUID, made a legal reference.

The result is lower-cased; dots stay; what a reference may not hold becomes `-`. A tag has at most 128 characters.
The template may use variables, text, `~`, conditions and a few text filters: no attribute, no item, no call, no loop.
"""

from __future__ import annotations

import re
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING

from mpack.errors import InputError

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

FILTERS = ("lower", "upper", "replace", "trim", "default", "truncate")
MAX_TAG = 128
MAX_NAME = 255
MAX_TEMPLATE = 4096
_VARIABLE = re.compile(r"\{\{ ?(Name|Version|RandomUUID) ?\}\}")
#: Only variables, and text in which nothing means anything to Jinja2.
_PLAIN = re.compile(rf"(?:[A-Za-z0-9./:_-]|{_VARIABLE.pattern})*")


def random_uuid() -> str:
    """A fresh uuid4, the value of RandomUUID for one build."""
    return str(uuid.uuid4())


def image_name(template: str, *, name: str, version: str, unique: str) -> str:
    """Renders the template and makes the result legal: "[host[:port]/]path:tag", tag `latest` where there is none.

    Raises InputError template-invalid or image-name-invalid.
    """
    return legal_reference(_render(template, name=name, version=version, unique=unique))


def legal_reference(text: str) -> str:
    """`text` as a legal image reference with a tag. Raises InputError image-name-invalid where nothing is left."""
    cleaned = text.strip().lower()
    if "@" in cleaned:
        raise InputError(
            "image-name-invalid",
            f"The image name {text!r} holds '@': a name to give cannot be a digest.",
            "Write NAME or NAME:TAG.",
        )
    path, tag = _split(cleaned)
    components = path.split("/")
    host = [components.pop(0)] if len(components) > 1 and _is_host(components[0]) else []
    legal = [part for part in (_component(component) for component in components) if part]
    if not legal:
        raise InputError(
            "image-name-invalid", f"The image name {text!r} has no usable character.", "Use letters, digits, '-'."
        )
    legal_tag = re.sub(r"[^a-z0-9_.-]", "-", tag)[:MAX_TAG].lstrip(".-") or "latest"
    name = "/".join(host + legal)
    if len(name) > MAX_NAME:
        raise InputError(
            "image-name-invalid",
            f"The image name is {len(name)} characters long; {MAX_NAME} are allowed.",
            "Shorten the imageName argument or give -t NAME:TAG.",
        )
    return f"{name}:{legal_tag}"


def _split(text: str) -> tuple[str, str]:
    head, slash, last = text.rpartition("/")
    path, _, tag = last.partition(":")
    return head + slash + path, tag


def _is_host(component: str) -> bool:
    return bool(re.fullmatch(r"(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+)(:\d{1,5})?|[a-z0-9-]+:\d{1,5}", component))


def _component(text: str) -> str:
    cleaned = re.sub(r"[^a-z0-9._-]", "-", text)
    # A reference allows one dot, one or two underscores, or any number of dashes between alphanumerics.
    cleaned = re.sub(r"[._-]{2,}", lambda m: m[0] if m[0] == "__" or set(m[0]) == {"-"} else "-", cleaned)
    return cleaned.strip("._-")


def _render(template: str, *, name: str, version: str, unique: str) -> str:
    if len(template) > MAX_TEMPLATE:
        raise InputError("template-invalid", f"The image name template is longer than {MAX_TEMPLATE} characters.")
    values = {"Name": name, "Version": version, "RandomUUID": unique}
    if _PLAIN.fullmatch(template):
        # What nearly every template is; loading Jinja2 would take longer than the rest of naming.
        return _VARIABLE.sub(lambda match: values[match[1]], template)
    from jinja2 import TemplateError

    try:
        environment = _environment()
        _check(environment.parse(template), template)
        return environment.from_string(template).render(**values)
    except TemplateError as error:
        raise InputError(
            "template-invalid",
            f"The image name template {template!r} cannot be rendered: {error}.",
            "It may use {{ Name }}, {{ Version }} and {{ RandomUUID }}.",
        ) from error


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    environment.filters = {key: environment.filters[key] for key in FILTERS}
    environment.globals = {}
    return environment


def _check(tree: nodes.Template, template: str) -> None:
    from jinja2 import nodes

    allowed = (
        nodes.Output,
        nodes.TemplateData,
        nodes.Name,
        nodes.Const,
        nodes.Filter,
        nodes.Concat,
        nodes.CondExpr,
        nodes.If,
        nodes.Compare,
        nodes.Operand,
        nodes.Not,
        nodes.And,
        nodes.Or,
    )
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, allowed):
            raise InputError(
                "template-invalid",
                f"The image name template {template!r} uses {type(node).__name__.lower()}, which is not allowed there.",
                f"It may use Name, Version, RandomUUID, text, '~', if, and the filters {', '.join(FILTERS)}.",
            )
