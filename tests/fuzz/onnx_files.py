"""ONNX files that are nearly right: operators, names, sizes and attributes of small decoders changed, or their bytes.

>>> other_onnx(Random(1), seeds.onnx_files()[0])[:2]
b'\\x08\\n'
"""

from __future__ import annotations

from random import Random
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from mutation import damaged

from membound.kernels.onnx_file.walk import OPERATORS

SIZES = (0, 1, -1, 2, 3, 7, 64, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
NAMES = (
    "",
    "logits",
    "input_ids",
    "past_key_values.0.key",
    "attention_mask",
    "nobody",
    "\x1b[31m",
    "x" * 300,
    "é",
)
TEXTS = ("../../etc/passwd", "/dev/zero", ".", "", "m.onnx", "a\x00b", "99999999999999999999", "-1")


def other_onnx(rng: Random, content: bytes) -> bytes:
    """A file with one to three changes."""
    if not rng.randrange(4):
        return damaged(rng, content)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return damaged(rng, content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice((_node, _node, _tensor, _declared, _values))(rng, model.graph)
    return bytes(model.SerializeToString())


def _node(rng: Random, graph: Any) -> None:
    """Another operator, input, output, attribute or place of a node."""
    if not graph.node:
        return
    at = rng.randrange(len(graph.node))
    node, what = graph.node[at], rng.randrange(7)
    if what == 0:
        node.op_type = rng.choice(
            [*(name.rpartition(".")[2] for name in OPERATORS), "If", "Loop", "Conv", ""]
        )
    elif what == 1 and node.input:
        names = [name for other in graph.node for name in (*other.input, *other.output)]
        node.input[rng.randrange(len(node.input))] = rng.choice((*NAMES, rng.choice(names)))
    elif what == 2 and node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(NAMES)
    elif what == 3 and node.attribute:
        one = rng.choice(node.attribute)
        one.i, one.f = rng.choice(SIZES), rng.choice((0.0, -1.0, float("nan"), 1e38))
        del one.ints[:]
        one.ints.extend(rng.choice(SIZES) for _ in range(rng.randrange(4)))
    elif what == 4:
        del graph.node[at]
    elif what == 5:
        node.domain = rng.choice(("", "com.microsoft", "ai.onnx", "mine"))
    else:
        del node.input[rng.randrange(3) :]


def _tensor(rng: Random, graph: Any) -> None:
    """Another shape, type, place or length of a tensor."""
    if not graph.initializer:
        return
    one, what = rng.choice(graph.initializer), rng.randrange(4)
    if what == 0:
        del one.dims[:]
        one.dims.extend(rng.choice(SIZES) for _ in range(rng.randrange(4)))
    elif what == 1:
        one.data_type = rng.randrange(28)
    elif what == 2:
        one.raw_data = one.raw_data[: rng.randrange(len(one.raw_data) + 1)]
    else:
        one.data_location = 1
        for key in ("location", "offset", "length"):
            entry = one.external_data.add()
            entry.key, entry.value = key, rng.choice(TEXTS)


def _values(rng: Random, graph: Any) -> None:
    """Other numbers in a small tensor: axes, shapes, slices."""
    small = [
        one
        for one in graph.initializer
        if one.data_type == onnx.TensorProto.INT64 and len(one.raw_data) < 100
    ]
    if small:
        one = rng.choice(small)
        count = len(one.raw_data) // 8
        one.raw_data = b"".join(rng.choice(SIZES).to_bytes(8, "little", signed=True) for _ in range(count))


def _declared(rng: Random, graph: Any) -> None:
    """Another name, type or size of an input or output."""
    several = [*graph.input, *graph.output]
    if not several:
        return
    one, what = rng.choice(several), rng.randrange(3)
    if what == 0:
        one.name = rng.choice(NAMES)
    elif what == 1:
        one.type.tensor_type.elem_type = rng.randrange(28)
    elif one.type.tensor_type.shape.dim:
        dim = rng.choice(one.type.tensor_type.shape.dim)
        dim.dim_value = rng.choice(SIZES)
