"""The tensors of a GGUF file under the names of Hugging Face's checkpoints, so that both are read alike.

>>> tensors = GgufTensors(Path("model.gguf"), model)
>>> tensors.kind("model.layers.0.self_attn.q_proj.weight").name
'Q8_0'

The architecture "llama" rotates pairs (2i, 2i + 1) of a head, membound (i, i + d/2): rows of q and k are put back in place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from membound.kernels.gguf_header import KINDS, OTHERS, Entry, Kind, read_header
from membound.kernels.layer_tensors import routed_part
from membound.kernels.model import Model, ModelError
from membound.kernels.weights import ggml
from membound.kernels.weights.formats import EVERY_FORMAT, F32, Weight, dequantize, from_bf16
from membound.kernels.weights.stored.matrices import StoredMatrix

LAYER = re.compile(r"blk\.(\d+)\.(.+)")
PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
"""Tensors that hold a matrix of all experts of a layer, one behind the other."""
WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LEFT_OUT = ("rope_freqs.weight",)
"""Tensors that the model's description holds already."""
FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
FORMATS = FLOATS | {"Q8_0": "q8_0", "Q4_0": "q4_0", "Q4_K": "q4_k", "Q6_K": "q6_k"}
"""The weight format of each type."""


@dataclass(frozen=True, slots=True)
class Gguf:
    """How a file of an architecture stores its matrices: each tensor says it."""

    architecture: str

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return f"GGUF, architecture {self.architecture}"


class GgufTensors:
    """A file's tensors by the names of Hugging Face; what `TensorFiles` is for safetensors."""

    def __init__(self, path: Path, model: Model) -> None:
        self.listing = path
        self._header = read_header(path)
        self._model = model
        self._pairs = model.scheme == Gguf("llama")
        experts = routed_part(model.decoder)
        self._entries = {
            ours: one
            for name, entry in self._header.tensors.items()
            if name not in LEFT_OUT
            for ours, one in _named(name, entry, experts.count if experts else 0)
        }

    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._entries)

    def file(self, name: str) -> Path:
        """The file that holds a tensor. Raises ModelError if it does not."""
        self._entry(name)
        return self.listing

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, rows first."""
        return self._entry(name).shape

    def kind(self, name: str) -> Kind:
        """A tensor's type. Raises ModelError for one that is not read."""
        number = self._entry(name).number
        if number not in KINDS:
            called = OTHERS[number].name if number in OTHERS else f"type {number}"
            known = ", ".join(one.name for one in KINDS.values())
            raise ModelError(f"{self.listing}: {name} is stored as {called}; supported: {known}")
        return KINDS[number]

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor."""
        return self._entry(name).nbytes

    def stamps(self) -> tuple[tuple[str, int, int], ...]:
        """Path, bytes and time of change: whether its numbers are those of before."""
        stat = self.listing.stat()
        return ((str(self.listing), stat.st_size, stat.st_mtime_ns),)

    def float32(self, name: str, rows: slice = slice(None)) -> F32:
        """Rows of a tensor as float32."""
        kind, shape = self.kind(name), self.shape(name)
        stored = self._rows(name)[rows]
        if kind.name in FLOATS:
            values = _floats(stored, kind.name)
        else:
            values = dequantize(_weight(stored, kind.name))
        return values if len(shape) > 1 else values.reshape(-1)

    def largest(self, name: str, rows_at_once: int) -> float:
        """The magnitude of a tensor's largest number; NaN or infinity if it holds one."""
        count = self.shape(name)[0] if len(self.shape(name)) > 1 else 1
        found = 0.0
        for start in range(0, count, rows_at_once):
            top = float(np.max(np.abs(self.float32(name, slice(start, start + rows_at_once)))))
            if not np.isfinite(top):
                return top
            found = max(found, top)
        return found

    def weight(self, name: str) -> Weight:
        """A matrix in the format that it is stored in."""
        kind = self.kind(name).name
        stored = self._rows(name)[:]
        if kind in FLOATS:
            values = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[kind]
            matrix = np.ascontiguousarray(stored).view(values)
            return Weight(FLOATS[kind], matrix.shape[0], matrix.shape[1], matrix)
        return _weight(stored, kind)

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise ModelError(f"{self.listing} has no tensor {name}")
        return self._entries[name]

    def _rows(self, name: str) -> npt.NDArray[np.uint8]:
        """A tensor's rows as bytes, mapped; of q and k in membound's order."""
        kind, entry = self.kind(name), self._entry(name)
        rows = prod(entry.shape[:-1])
        mapped = np.memmap(self.listing, np.uint8, "r", entry.offset, (rows, entry.nbytes // rows))
        heads = {"q_proj": self._model.q_heads, "k_proj": self._model.kv_heads}
        part = name.rpartition(".")[0].rpartition(".")[2]
        if not self._pairs or part not in heads or len(entry.shape) < 2 or kind.block > entry.shape[-1]:
            return mapped
        pairs = mapped.reshape(heads[part], rows // heads[part] // 2, 2, -1)
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, -1)


class GgufMatrices:
    """Matrices of a GGUF file; what `StoredMatrices` is for a folder."""

    def __init__(self, tensors: GgufTensors) -> None:
        self._tensors = tensors

    def has(self, name: str) -> bool:
        """Whether a matrix is there."""
        return name in self._tensors.names()

    def quantised(self, name: str) -> bool:
        """Whether a matrix is stored in blocks."""
        return self._tensors.kind(name).name not in FLOATS

    def check(self, name: str, shape: tuple[int, ...], assumed: Sequence[str] = ()) -> None:
        """Raises ModelError unless a tensor is there with its shape, in a type that is read."""
        found = self._tensors.shape(name)
        if found != shape:
            raise ModelError(
                f"{self._tensors.listing}: {name} has shape {list(found)}, the metadata say {list(shape)}"
            )
        if self._tensors.kind(name).name not in FLOATS and len(shape) == 1:
            raise ModelError(f"{self._tensors.listing}: {name} is stored as {self._tensors.kind(name).name}")

    def tensors_of(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """The name itself: a type has its scales among its numbers."""
        return (name,)

    def spare(self, name: str) -> bool:
        """None is."""
        return False

    def describe(self, name: str, n: int, k: int) -> StoredMatrix:
        """The format and the bytes of a matrix."""
        fmt, size = FORMATS[self._tensors.kind(name).name], self._tensors.nbytes(name)
        scales = EVERY_FORMAT[fmt].matrix_bytes(n, k)[1]
        return StoredMatrix(fmt, size - scales, scales)

    def refuse_orders(self, names: Sequence[str]) -> None:
        """Columns lie in their places."""

    def read(self, name: str, n: int, k: int) -> Weight:
        """A matrix as it is stored."""
        return self._tensors.weight(name)


def _named(name: str, entry: Entry, experts: int) -> Iterator[tuple[str, Entry]]:
    """A tensor under Hugging Face's name, or its own where there is none; of one that holds as many experts each of theirs."""
    found = LAYER.fullmatch(name)
    if found is None:
        yield WHOLE.get(name, name), entry
        return
    part, _, end = found[2].rpartition(".")
    if part not in EXPERTS or len(entry.shape) != 3 or entry.shape[0] != experts:
        yield f"model.layers.{found[1]}.{PARTS.get(part, part)}.{end}", entry
        return
    each = entry.nbytes // experts
    for number in range(experts):
        one = Entry(entry.shape[1:], entry.number, entry.offset + number * each, each)
        yield f"model.layers.{found[1]}.mlp.experts.{number}.{EXPERTS[part]}.{end}", one


def _floats(stored: npt.NDArray[np.uint8], kind: str) -> F32:
    """Rows of floats as float32."""
    rows = np.ascontiguousarray(stored)
    if kind == "BF16":
        return from_bf16(rows.view(np.uint16))
    values: F32 = rows.view(np.float32 if kind == "F32" else np.float16).astype(np.float32)
    return values


def _weight(stored: npt.NDArray[np.uint8], kind: str) -> Weight:
    """Rows of blocks as a `Weight` of ggml's types."""
    fmt = FORMATS[kind]
    if fmt in ggml.WIDENED:
        found = next(one for one in KINDS.values() if one.name == kind)
        return Weight(
            fmt, len(stored), stored.shape[1] // found.size * found.block, np.ascontiguousarray(stored)
        )
    values, scales = ggml.from_blocks(stored, fmt)
    return Weight(fmt, len(stored), scales.shape[1] * ggml.BLOCK, values, scales)
