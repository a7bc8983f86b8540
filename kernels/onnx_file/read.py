"""An ONNX file as a `Graph`: read with the library onnx, every claim of it checked, nothing of it executed.

>>> read(Path("model.onnx")).content
'3f1c0a9be27d'

Data beside the file is looked at only inside the file's folder, also after links have been followed. What cannot be walked
through (loops, operators of other domains, sparse tensors, texts) is refused by name. Raises ModelError in all these cases.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from membound.kernels.config_json import LFS_POINTER, pointer_error
from membound.kernels.model import ModelError
from membound.kernels.onnx_file.graph import CONTRIB, Declared, Graph, Node, OnnxFile, Stored, in_order
from membound.kernels.onnx_file.numbers import KINDS, Kind

CONTENT_DIGITS = 12
LARGEST_BYTES = (1 << 31) - 1
"""Of a message of protobuf."""
OLDEST_OPSET = 7
"""Source: onnxruntime/docs/Versioning.md."""
LOOPS = ("Loop", "Scan", "SequenceMap")
FIELDS = {"float": "float_data", "double": "double_data", "int64": "int64_data"}
FIELDS |= dict.fromkeys(("uint32", "uint64"), "uint64_data")
"""Where values lie that are not raw bytes; the others are in int32_data (onnx.proto, TensorProto)."""
CONSTANTS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
KIND_OF = {np.float32: KINDS[1], np.int64: KINDS[7]}


def read(path: Path) -> OnnxFile:
    """The file's graph. Raises ModelError that names the file and what is wrong with it."""
    data = _bytes_of(path)
    model = _parsed(path, data)
    reader = _Reader(path, model)
    try:
        graph = reader.graph_of(model.graph)
    except (UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {type(error).__name__} in its names or its depth") from None
    places = tuple(sorted(reader.places))
    digest = hashlib.sha256(data)
    for place in places:
        digest.update(f"{place.name} {place.stat().st_size}".encode(errors="surrogateescape"))
    return OnnxFile(path, graph, digest.hexdigest()[:CONTENT_DIGITS], places)


def _bytes_of(path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "is a folder: name the .onnx file in it" if path.is_dir() else "is no file that is there"
            home = f"; a shell leaves ~ as it is within a word: write {path.expanduser()}"
            raise ModelError(f"{path} {what}{home if path.parts[:1] == ('~',) else ''}")
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise ModelError(
                f"{path} has {size} bytes, more than an ONNX file can hold: save its weights beside it "
                "(onnx.save with save_as_external_data=True)"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"{path} cannot be read: {why}") from None
    if data.startswith(LFS_POINTER):
        raise pointer_error(path)
    return data


def _parsed(path: Path, data: bytes) -> Any:
    """The message, with its own functions written out. Raises ModelError."""
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path} is cut short or no ONNX file: it cannot be read") from None
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise ModelError(f"{path} is damaged: a name in it is no text")
    if not model.ir_version or not model.graph.node:
        raise ModelError(f"{path} is no ONNX model: it has no operators")
    _check_versions(path, model)
    if not model.functions:
        return model
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"{path} has functions that cannot be written out: {_first_line(error)}") from None


def _check_versions(path: Path, model: Any) -> None:
    """Raises ModelError for a format or operators of a version that nobody here knows what they mean."""
    import onnx

    newer = (
        f"newer than onnx {onnx.__version__} knows: pip install --upgrade onnx, or export with an older one"
    )
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(f"{path} has IR version {model.ir_version}, {newer}")
    for one in model.opset_import:
        if one.domain not in ("", "ai.onnx"):
            continue
        if one.version > onnx.defs.onnx_opset_version():
            raise ModelError(f"{path} has operators of opset {one.version}, {newer}")
        if one.version < OLDEST_OPSET:
            raise ModelError(
                f"{path} has operators of opset {one.version}; ONNX Runtime takes those from opset {OLDEST_OPSET} on: "
                "convert it with onnx.version_converter"
            )


def _texts(message: Any) -> Iterator[str | bytes]:
    """Every name and text of a message; protobuf gives one that is not UTF-8 as bytes."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for one in (value,) if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value:
            if field.type == field.TYPE_STRING:
                yield one
            else:
                yield from _texts(one)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class _Reader:
    """One file on its way to a graph. `places` collects the files beside it that hold its data."""

    def __init__(self, path: Path, model: Any) -> None:
        self._path = path
        self._folder = Path(os.path.realpath(path.parent))
        self._model = model
        self.places: set[Path] = set()

    def graph_of(self, graph: Any) -> Graph:
        """A graph or a branch of an If."""
        if graph.sparse_initializer:
            self._refuse("has sparse tensors, which are not supported")
        stored: dict[str, Stored] = {}
        for tensor in graph.initializer:
            if tensor.name in stored:
                self._refuse(f"has two tensors of the name {tensor.name!r:.60}")
            stored[tensor.name] = self._stored(tensor.name, tensor)
        nodes = in_order(tuple(self._nodes(graph.node, stored)))
        inputs = tuple(self._declared(one) for one in graph.input if one.name not in stored)
        return Graph(nodes, stored, inputs, tuple(self._declared(one) for one in graph.output))

    def _nodes(self, nodes: Iterable[Any], stored: dict[str, Stored]) -> Iterator[Node]:
        """Every operator but constants, which become stored tensors."""
        for node in nodes:
            domain = "" if node.domain in ("", "ai.onnx") else node.domain
            if domain not in ("", CONTRIB):
                self._refuse(
                    f"has the custom operator {domain}.{node.op_type}; only those of ONNX and of ONNX Runtime "
                    f"({CONTRIB}) are known"
                )
            if node.op_type in LOOPS:
                self._refuse(f"has the operator {node.op_type}: control flow that cannot be followed")
            if node.op_type == "Constant" and not domain:
                name = next(iter(node.output), "")
                stored[name] = self._constant(name, node)
                continue
            attributes = {one.name: self._attribute(node.op_type, one) for one in node.attribute}
            yield Node(node.op_type, domain, node.name, tuple(node.input), tuple(node.output), attributes)

    def _constant(self, name: str, node: Any) -> Stored:
        for one in node.attribute:
            if one.name == "value":
                return self._stored(name, one.t)
            if one.name in CONSTANTS:
                dtype = CONSTANTS[one.name]
                values = np.asarray(self._attribute("Constant", one), dtype)
                return Stored(name, values.shape, KIND_OF[dtype], inline=values.tobytes)
        told = ", ".join(one.name for one in node.attribute) or "nothing"
        return self._refuse(f"has a Constant of {told:.60}, which is not supported")

    def _attribute(self, op: str, one: Any) -> Any:
        kinds = {1: "f", 2: "i", 3: "s", 5: "g", 6: "floats", 7: "ints", 8: "strings"}
        if one.ref_attr_name or one.type not in kinds:
            if one.type == 4:  # a tensor: ConstantOfShape has one
                stored = self._stored(f"{op}.{one.name}", one.t)
                return stored.load()
            self._refuse(
                f"has the operator {op} with an attribute {one.name:.60} of a kind that is not supported"
            )
        value = getattr(one, kinds[one.type])
        if one.type == 5:
            return self.graph_of(value)
        if one.type == 3:
            return value.decode(errors="replace")
        if one.type == 8:
            return [text.decode(errors="replace") for text in value]
        return list(value) if one.type > 5 else value

    def _declared(self, one: Any) -> Declared:
        tensor = one.type.tensor_type
        if not one.type.HasField("tensor_type"):
            self._refuse(f"has {one.name!r:.60}, which is no tensor")
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{one.name}.{axis}"
            for axis, dim in enumerate(tensor.shape.dim)
        )
        if any(isinstance(dim, int) and dim < 0 for dim in dims):
            self._refuse(f"declares {one.name!r:.60} with a negative size")
        return Declared(one.name, self._kind(one.name, tensor.elem_type), dims)

    def _kind(self, name: str, number: int) -> Kind:
        if number not in KINDS:
            known = ", ".join(kind.name for kind in KINDS.values())
            self._refuse(f"has {name!r:.60} of type {number}, which is not supported; supported: {known}")
        return KINDS[number]

    def _stored(self, name: str, tensor: Any) -> Stored:
        """A tensor whose bytes are known to be there. Raises ModelError."""
        kind, dims = self._kind(name, tensor.data_type), tuple(tensor.dims)
        if any(dim < 0 for dim in dims):
            self._refuse(f"has the tensor {name!r:.60} with a negative size")
        if tensor.data_location:
            return self._outside(Stored(name, dims, kind), tensor)
        if tensor.HasField("raw_data"):
            one = Stored(name, dims, kind, inline=partial(getattr, tensor, "raw_data"))
            found = len(tensor.raw_data)
        else:
            values = getattr(tensor, FIELDS.get(kind.name, "int32_data"))
            one = Stored(name, dims, kind, inline=partial(_packed, values, kind))
            found = kind.bytes_of(one.size) if len(values) == _entries(one) else -1
        if found != one.nbytes:
            self._refuse(
                f"has the tensor {name!r:.60} of {list(dims)} {kind.name} with other than {one.nbytes} bytes"
            )
        return one

    def _outside(self, one: Stored, tensor: Any) -> Stored:
        """A tensor in a file beside the model, never elsewhere. Raises ModelError."""
        told = {entry.key: entry.value for entry in tensor.external_data}
        location = told.get("location", "")
        place = self._place(one.name, location)
        offset = self._number(one.name, told, "offset", 0)
        length = self._number(one.name, told, "length", one.nbytes)
        size = place.stat().st_size
        if length != one.nbytes or offset + length > size:
            self._refuse(
                f"has the tensor {one.name!r:.60} of {one.nbytes} bytes at {offset} in {location!r:.60}, which gives it "
                f"{length} and has {size}"
            )
        self.places.add(place)
        return Stored(one.name, one.dims, one.kind, place, offset)

    def _place(self, name: str, location: str) -> Path:
        """The data file, inside the model's folder whatever links there are. Raises ModelError."""
        outside = os.path.isabs(location) or ".." in Path(location).parts or "\\" in location
        try:
            place = Path(os.path.realpath(self._folder / location))
            outside = outside or not location or not place.is_relative_to(self._folder)
            if not outside and place.is_file():
                return self._folder / location
        except (OSError, ValueError):
            outside = True
        if outside:
            self._refuse(
                f"keeps the tensor {name!r:.60} in {location!r:.60}, which is not inside its folder: copy it there"
            )
        return self._refuse(f"keeps the tensor {name!r:.60} in {location!r:.60}, which is not beside it")

    def _number(self, name: str, told: dict[str, str], key: str, default: int) -> int:
        text = told.get(key, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            self._refuse(f"keeps the tensor {name!r:.60} at {key} {text!r:.60}, which is no number")
        return int(text)

    def _refuse(self, told: str) -> NoReturn:
        raise ModelError(f"{self._path} {told}")


def _entries(one: Stored) -> int:
    """Entries of a typed field: two four-bit numbers share one."""
    return one.nbytes if one.kind.bits == 4 else one.size


def _packed(values: Any, kind: Kind) -> bytes:
    """The bytes of a typed field, as raw data would have them."""
    wide = np.asarray(values, np.float64 if kind.name in ("float", "double") else np.int64)
    if kind.name == "uint64":
        wide = np.asarray(values, np.uint64)
    if kind.name in ("float16", "bool"):  # the bits of the number, and 0 or 1
        return wide.astype("<u2" if kind.bits == 16 else "u1").tobytes()
    return wide.astype(kind.dtype).tobytes()
