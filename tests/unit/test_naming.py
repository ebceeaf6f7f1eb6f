"""Image names: templates, and the rule that makes any result a legal reference."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpack.errors import InputError
from mpack.naming import image_name, legal_reference

UNIQUE = "0b1c2d3e-0000-4000-8000-000000000000"
LEGAL = re.compile(
    r"(?:[a-z0-9.-]+(?::\d{1,5})?/)?[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
    r"(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*:[a-z0-9_][a-z0-9_.-]{0,127}"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ Name }}-{{ Version }}:{{ RandomUUID }}", f"wine-1.0:{UNIQUE}"),
        ("{{ Name }}/{{ RandomUUID }}:{{ Version }}", f"wine/{UNIQUE}:1.0"),
        ("test:1234", "test:1234"),
        ("{{ Name }}-{{ Version }}", "wine-1.0:latest"),
        ("Registry.Example:5000/Team/{{ Name }}:V1+b2", "registry.example:5000/team/wine:v1-b2"),
        ("{{ Name | upper }}:{{ Version | replace('.', '-') }}", "wine:1-0"),
        ("{% if Version == '1.0' %}stable{% else %}x{% endif %}:1", "stable:1"),
        ("a  b!!c:x y", "a--b--c:x-y"),
        ("..--wine__x___y--:1", "wine__x-y:1"),
        ("wine:" + "t" * 200, "wine:" + "t" * 128),
    ],
)
def test_image_name(template: str, expected: str) -> None:
    """The template's result, lower-cased, dots kept, other characters as dashes."""
    assert image_name(template, name="Wine", version="1.0", unique=UNIQUE) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ Name.__class__ }}",
        "{{ Name['x'] }}",
        "{{ 'a' * 999999999 }}",
        "{% for x in Name %}{{ x }}{% endfor %}",
        "{{ Name.upper() }}",
        "{{ range(10) }}",
        "{{ Unknown }}",
        "{{ Name",
        "{% include 'x' %}",
        "{{ Name | tojson }}",
        "x" * 5000,
    ],
)
def test_refused_templates(template: str) -> None:
    """Attributes, items, calls, loops, arithmetic, unknown names and syntax errors are template-invalid."""
    with pytest.raises(InputError) as caught:
        image_name(template, name="wine", version="1", unique=UNIQUE)
    assert caught.value.code == "template-invalid"


@pytest.mark.parametrize("text", ["", ":", "///", "---:1", "a@sha256:" + "0" * 64, "x" * 300])
def test_refused_names(text: str) -> None:
    """A name with nothing left, a digest, or one that is too long is image-name-invalid."""
    with pytest.raises(InputError) as caught:
        legal_reference(text)
    assert caught.value.code == "image-name-invalid"


@given(st.text(max_size=60))
def test_any_text_is_legal_or_refused(text: str) -> None:
    """Whatever is typed becomes a legal reference, and stays the same when done twice, or is refused."""
    try:
        made = legal_reference(text)
    except InputError:
        return
    assert LEGAL.fullmatch(made), made
    assert legal_reference(made) == made
