"""Configurations made from signatures, what they promise to clients, and the user's wishes on top."""

from __future__ import annotations

from typing import Any

import pytest
from mpack_docker_triton import dtypes
from mpack_docker_triton.generate import apply, declared, generate
from mpack_docker_triton.modelconfig import parse, write

from mpack.errors import InputError, UsageError
from mpack.signature import Column, Signature, Tensor

# signature -> (max_batch_size, inputs, outputs as V2 metadata shows them)
WRAPPED: dict[str, tuple[Signature | None, int, list[tuple[Any, ...]], list[tuple[Any, ...]]]] = {
    "nothing known": (None, 64, [("input-0", "FP64", [-1, -1])], []),
    "named columns": (
        Signature(tuple(Column(kind, kind) for kind in ("boolean", "integer", "long", "float", "double", "datetime"))),
        64,
        [
            ("boolean", "BOOL", [-1, 1]),
            ("integer", "INT32", [-1, 1]),
            ("long", "INT64", [-1, 1]),
            ("float", "FP32", [-1, 1]),
            ("double", "FP64", [-1, 1]),
            ("datetime", "BYTES", [-1, 1]),
        ],
        [],
    ),
    "columns without names": (
        Signature((Column(None, "integer"), Column(None, "float"))),
        64,
        [("input-0", "FP64", [-1, 2])],
        [],
    ),
    "a name missing": (
        Signature((Column("a", "boolean"), Column(None, "any"))),
        64,
        [("input-0", "BYTES", [-1, 2])],
        [],
    ),
    "booleans and floats": (
        Signature((Column(None, "boolean"), Column(None, "float"))),
        64,
        [("input-0", "FP32", [-1, 2])],
        [],
    ),
    "one tensor": (
        Signature((Tensor(None, "float32", (-1, 4)),), (Tensor(None, "int64", (-1,)),)),
        64,
        [("input-0", "FP32", [-1, 4])],
        [("predict", "INT64", [-1, 1])],
    ),
    "several tensors": (
        Signature(
            (Tensor(None, "str", (-1, 2)), Tensor("x", "uint8", (-1, 8, 8))),
            (Tensor(None, "float16", (-1, 2)), Tensor(None, "bool", (-1, 3))),
        ),
        64,
        [("input-0", "BYTES", [-1, 2]), ("x", "UINT8", [-1, 8, 8])],
        [("output-0", "FP16", [-1, 2]), ("output-1", "BOOL", [-1, 3])],
    ),
    "a fixed output": (
        Signature((Tensor("x", "float32", (-1, 4)),), (Tensor("y", "float32", (1, 4)),)),
        0,
        [("x", "FP32", [-1, 4])],
        [("y", "FP32", [1, 4])],
    ),
    "a scalar": (Signature((Tensor("x", "float32", ()),)), 0, [("x", "FP32", [1])], []),
}


def v2(tensors: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in tensors]


@pytest.mark.parametrize("what", WRAPPED)
def test_names_types_and_shapes_of_wrapped_models(what: str) -> None:
    signature, batch, inputs, outputs = WRAPPED[what]
    config = generate("m", "python", signature)
    assert (config.max_batch_size, config.backend, config.HasField("dynamic_batching")) == (batch, "python", batch > 0)
    assert declared(config) == {"inputs": v2(inputs), "outputs": v2(outputs)}
    assert parse(write(config), "config.pbtxt") == config
    unbatched = generate("m", "python", signature, max_batch_size=0)
    assert unbatched.max_batch_size == 0 and not unbatched.HasField("dynamic_batching")
    assert declared(unbatched) == declared(config)


def test_optional_columns_are_optional_inputs() -> None:
    config = generate("m", "python", Signature((Column("a", "long"), Column("b", "long", required=False))))
    assert [item.optional for item in config.input] == [False, True]


@pytest.mark.parametrize(
    ("signature", "word"),
    [
        (Signature((Tensor("x", "complex64", (-1, 2)),)), "complex64"),
        (Signature((Tensor("x", "float8_e4m3fn", (-1, 2)),)), "float8"),
        (Signature((Column("a", "long"), Column("a", "double"))), "'a' 2 times"),
        (Signature((Tensor("input-1", "bool", (-1,)), Tensor(None, "bool", (-1,)))), "'input-1' 2 times"),
        (Signature((Column("", "long"),)), "empty name"),
        (Signature((Column("\ud800", "long"),)), "no Unicode text"),
        (Signature((Tensor("x", "bool", (-1, 0)),)), r"shape \[-1, 0\]"),
        (Signature((Tensor("x", "bool", (-2,)),)), r"shape \[-2\]"),
        (Signature((Tensor("x", "bool", (1 << 63,)),)), "shape"),
    ],
)
def test_what_triton_cannot_name_or_carry_is_refused(signature: Signature, word: str) -> None:
    with pytest.raises(InputError, match=word):
        generate("m", "python", signature)


@pytest.mark.parametrize(
    ("dtype", "datatype", "written"),
    [
        *((f"{sign}int{bits}", f"{sign}INT{bits}".upper(), "") for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *((f"float{bits}", f"FP{bits}", "") for bits in (16, 32, 64)),
        ("bool", "BOOL", ""),
        ("bfloat16", "BF16", ""),
        *((text, "BYTES", "TYPE_STRING") for text in ("str", "bytes", "object", "datetime64[ns]")),
    ],
)
def test_types(dtype: str, datatype: str, written: str) -> None:
    assert dtypes.v2_of_dtype(dtype) == datatype
    assert dtypes.config_type(datatype) == (written or f"TYPE_{datatype}")
    assert dtypes.v2_of_config(dtypes.config_type(datatype)) == datatype


VECTOR = Signature((Tensor("x", "float32", (-1,)),), (Tensor("y", "float32", (-1, 3)),))


def test_a_native_vector_is_reshaped_for_the_model() -> None:
    config = generate("m", "onnxruntime", VECTOR)
    assert declared(config)["inputs"] == v2([("x", "FP32", [-1, 1])])
    assert config.input[0].HasField("reshape") and list(config.input[0].reshape.shape) == []
    assert not config.output[0].HasField("reshape")
    plain = generate("m", "onnxruntime", VECTOR, max_batch_size=0)
    assert declared(plain)["inputs"] == v2([("x", "FP32", [-1])])


def test_native_models_leave_to_the_backend_what_is_not_known() -> None:
    columns = Signature((Column("a", "long"),))
    for backend in ("onnxruntime", "openvino", "tensorflow", "tensorrt"):
        config = generate("m", backend, columns)
        assert (len(config.input), len(config.output), config.max_batch_size, config.backend) == (0, 0, 0, backend)
    with pytest.raises(InputError, match="pytorch cannot read them"):
        generate("m", "pytorch", None)


def test_pytorch_names_say_the_place() -> None:
    config = generate("m", "pytorch", VECTOR)
    assert [config.input[0].name, config.output[0].name] == ["INPUT__0", "OUTPUT__0"]
    named = Signature((Tensor("x__0", "float32", (-1, 1)),), (Tensor("y__0", "float32", (-1, 3)),))
    assert [generate("m", "pytorch", named).input[0].name] == ["x__0"]


def test_wishes_of_a_generated_configuration() -> None:
    config = generate("m", "python", None, max_batch_size=8)
    apply(config, instances=3, max_queue_delay_us=250, max_batch_size=8)
    assert (config.instance_group[0].count, config.max_batch_size) == (3, 8)
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert not generate("m", "python", None, dynamic_batching=False).HasField("dynamic_batching")


EXISTING = """\
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 1 reshape {} }
instance_group [ { name: "a" count: 1 }, { name: "b" count: 2 } ]
dynamic_batching { preferred_batch_size: 4 }
"""


def test_wishes_change_only_what_the_user_said() -> None:
    config = parse(EXISTING, "x")
    apply(config)
    assert config == parse(EXISTING, "x")
    apply(config, instances=5)
    assert [group.count for group in config.instance_group] == [5, 5]
    apply(config, max_queue_delay_us=9)
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    apply(config, dynamic_batching=False)
    assert config.WhichOneof("scheduling_choice") is None


def test_a_batch_size_moves_the_batch_dimension_and_clients_see_the_same() -> None:
    config = parse(EXISTING, "x")
    before = declared(config)
    apply(config, max_batch_size=0)
    assert declared(config) == before
    assert (list(config.input[0].dims), list(config.output[0].reshape.shape)) == ([-1, 3], [-1])
    assert not config.HasField("dynamic_batching")
    apply(config, max_batch_size=16)
    assert declared(config) == before
    assert config.output[0].HasField("reshape") and list(config.output[0].reshape.shape) == []


@pytest.mark.parametrize(
    ("text", "wish", "word"),
    [
        ('input { name: "x" dims: [2, 3] }', {"max_batch_size": 4}, "first dimension of x is fixed"),
        ("max_batch_size: 4 sequence_batching {}", {"dynamic_batching": True}, "sequence_batching"),
        ("max_batch_size: 0", {"dynamic_batching": True}, "max_batch_size is 0"),
        ("max_batch_size: 0", {"max_queue_delay_us": 1}, "max_batch_size is 0"),
        ("ensemble_scheduling {}", {"instances": 2}, "ensemble"),
    ],
)
def test_wishes_that_a_model_cannot_have(text: str, wish: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        apply(parse(text, "x"), **wish)
    assert caught.value.code == "argument-invalid"
