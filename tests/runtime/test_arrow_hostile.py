"""Arrow streams that are damaged, or made to break their reader: a 400, and the service goes on."""

from __future__ import annotations

import datetime
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mpack_runtime.arrow import MEDIA
from mpack_runtime.config import LoaderConfig, ModelConfig, Settings
from mpack_runtime.frame import Inputs
from mpack_runtime.loaders import Model
from mpack_runtime.rest.app import RestApp
from mpack_runtime.service import Service
from werkzeug.test import Client

NOON = datetime.datetime(2024, 5, 1, 12, 30)


class Rows(Model):
    """Answers the rows' numbers."""

    def predict(self, inputs: Inputs) -> Any:
        return np.arange(inputs.rows)


def client() -> Client:
    config = ModelConfig("m", "1", LoaderConfig("sklearn", "m"), Path(), arrow=True)
    return Client(RestApp(Service(config, Rows()), Settings()).flask())


def post(client: Client, body: bytes) -> Any:
    return client.post("/api/model/invoke", data=body, content_type=MEDIA, headers={"Accept": MEDIA})


def stream(*tables: pa.Table, compression: str | None = None) -> bytes:
    """An Arrow stream of these tables' batches."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, tables[0].schema, options=options) as writer:
        for table in tables:
            writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


TABLE = pa.table(
    {
        "f": [1.5, None, 3.0],
        "i": [1, 2, None],
        "s": ["x", None, "yz"],
        "d": pa.array(["u", "v", "u"]).dictionary_encode(),
        "b": [True, None, False],
        "l": pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float64())),
        "t": [NOON, None, NOON],
    }
)


def big_endian(body: bytes) -> bytes:
    """The stream with the other byte order in its schema's header, where the default is left out."""
    size = struct.unpack_from("<I", body, 4)[0]
    head = bytearray(body[8 : 8 + size])
    root = struct.unpack_from("<I", head)[0]
    fields = root - struct.unpack_from("<i", head, root)[0]
    schema = root + struct.unpack_from("<H", head, fields + 4 + 2 * 2)[0]
    schema += struct.unpack_from("<I", head, schema)[0]
    fields = schema - struct.unpack_from("<i", head, schema)[0]
    assert struct.unpack_from("<H", head, fields + 4)[0] == 0
    # The low half of the offset to the fields' vector stands in for the field: any number but 0 is big-endian.
    struct.pack_into("<H", head, fields + 4, struct.unpack_from("<H", head, fields + 6)[0])
    return body[:8] + bytes(head) + body[8 + size :]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "provide data"),
        (b"x", "Arrow stream"),
        (b"ARROW1\0\0" + bytes(100), "Arrow stream"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64), "Arrow stream"),
        (stream(TABLE)[:-300], "Arrow stream"),
        (stream(TABLE) + stream(TABLE), "follow the end"),
        (stream(TABLE, compression="zstd"), "compressed"),
        (stream(TABLE, compression="lz4"), "compressed"),
        (stream(TABLE.slice(0, 0)), "no row"),
        (stream(pa.table({})), "no row"),
        (stream(pa.table({"x": pa.nulls(10**9)})), "cannot hold"),
        (stream(pa.table({"x": pa.nulls(10**9), "y": pa.nulls(10**9)})), "cannot hold"),
        (stream(pa.table({"x": pa.array([[]] * 10**4, pa.list_(pa.float64(), 0))})), "cannot hold"),
        (big_endian(stream(TABLE.select(["i"]))), "big-endian"),
    ],
    ids=range(14),
)
def test_hostile_streams_are_refused(body: bytes, words: str) -> None:
    """In a sentence, before anything is unpacked or made of it."""
    answer = post(client(), body)
    assert answer.status_code == 400 and words in answer.json["message"]


def test_mutated_streams_never_break_it() -> None:
    """Whatever bytes are changed, cut or repeated: an answer or a 400."""
    service, random = client(), np.random.default_rng(5)
    sources = [stream(TABLE), stream(TABLE.select(["f", "i", "s", "d"]), TABLE.select(["f", "i", "s", "d"]))]
    refused = 0
    for _ in range(1500):
        body = bytearray(sources[random.integers(len(sources))])
        for _ in range(random.integers(1, 4)):
            where = int(random.integers(len(body)))
            body[where] = int(random.choice([0, 1, 127, 128, 255, random.integers(256)]))
        if random.random() < 0.2:
            del body[int(random.integers(len(body))) :]
        answer = post(service, bytes(body))
        assert answer.status_code in (200, 400), bytes(body)
        refused += answer.status_code == 400
    assert 300 < refused < 1500
