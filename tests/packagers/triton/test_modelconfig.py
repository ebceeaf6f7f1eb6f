"""config.pbtxt as text: what is refused and where, what is written, which line a field stands on."""

from __future__ import annotations

import pytest
from mpack_docker_triton.modelconfig import MAX_BYTES, parse, write
from mpack_docker_triton.positions import Positions, field_name

from mpack.errors import InputError

BROKEN = {
    "unknown field": ('name: "m"\nmax_batchsize: 8\n', ":2:1:", "Did you mean max_batch_size?"),
    "unknown field inside": ("input [\n  { dim: 4 }\n]", ":2:5:", "Did you mean dims?"),
    "unknown type": ("input {\n data_type: TYPE_FP23\n}", ":2:13:", "Did you mean TYPE_FP"),
    "given twice": ('name: "a"\n\nname: "b"', ":3:7:", ""),
    "two schedulers": ("dynamic_batching {}\nsequence_batching {}", ":2:", ""),
    "number out of range": ("max_batch_size: 99999999999", ":1:17:", ""),
    "number as text": ('\nmax_batch_size: "8"', ":2:17:", ""),
    "no end of a string": ('name: "m', ":1:7:", ""),
    "no end of a message": ("input {\n name: 'x'\n", ":", ""),
    "not UTF-8": (b'# x\nname: "\xff"', ":2:", "UTF-8"),
    "null byte": ('name: "m"\n\0', ":2:", "UTF-8"),
    "byte order mark": ('\ufeffname: "m"', ":1:", "UTF-8"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_text_is_refused_with_its_place(what: str) -> None:
    text, place, hint = BROKEN[what]
    with pytest.raises(InputError) as caught:
        parse(text, "m/config.pbtxt")
    assert caught.value.code == "artifact-invalid"
    assert caught.value.message.startswith(f"m/config.pbtxt{place}"), caught.value.message
    assert hint in caught.value.hint
    assert len(caught.value.message) < 500


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    with pytest.raises(InputError) as caught:
        parse("#" * (MAX_BYTES + 1), "m/config.pbtxt")
    assert caught.value.code == "artifact-too-large"


def test_what_is_written_is_read_again_and_does_not_depend_on_order() -> None:
    one = parse('name: "é"\nparameters { key: "b" }\nparameters { key: "a" value { string_value: "{\\n}" } }', "x")
    other = parse('parameters { key: "a" value { string_value: "{\\n}" } } parameters: { key: "b" }\nname: "é"', "x")
    assert write(one) == write(other)
    assert parse(write(one), "x") == one


TEXT = """\
# input { name: "comment" }
input: [
  { name: "a;{" dims: [ 1, 2,
    3 ] },
  { name: 'b'
    "c", dims: 4
    dims: -1 }
]
dynamic_batching < preferred_batch_size: 4; >
input { name: "d" }
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("input", 0), 3),
        (("input", 0, "dims", 1), 3),
        (("input", 0, "dims", 2), 4),
        (("input", 1, "name"), 5),
        (("input", 1, "dims", 0), 6),
        (("input", 1, "dims", 1), 7),
        (("dynamic_batching", 0, "preferred_batch_size", 0), 9),
        (("input", 2, "name"), 10),
        (("input", 2, "dims"), 10),
        (("backend",), 1),
    ],
)
def test_fields_have_lines(path: tuple[str | int, ...], line: int) -> None:
    parse(TEXT, "x")
    assert Positions(TEXT).line(path) == line


def test_field_names() -> None:
    assert field_name(("input", 1, "dims", 0)) == "input[1].dims[0]"
    assert [node.text for node in Positions(TEXT).all("input", "name")] == ["a;{", "bc", "d"]
