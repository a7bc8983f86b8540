"""The tensors of a model folder by name, over one safetensors file or the shards of an index.

>>> TensorFiles(Path("/models/Llama-3.2-1B")).shape("model.norm.weight")
(2048,)

Headers are read when a file is opened, numbers when they are asked for. A file that is no safetensors is refused with what
it is instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from membound.kernels.config_json import LFS_POINTER, pointer_error
from membound.kernels.mistaken_paths import INDEX, SINGLE, without_weights
from membound.kernels.model import ModelError
from membound.kernels.weights.formats import F32, from_bf16

DTYPES = ("BF16", "F16", "F32")
NUMPY = {
    "BF16": "<u2",
    "F16": "<f2",
    "F32": "<f4",
    "F8_E4M3": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "I8": "i1",
    "U8": "u1",
}
"""How NumPy maps what safetensors names so."""
PACKED = ("qweight", "weight_packed", "weight_scale", "weight_scale_inv", "weight.absmax")
"""What stands beside or in place of a matrix that is stored quantised: GPTQ and AWQ, compressed-tensors, FP8, bitsandbytes."""


class TensorFiles:
    """The tensors of a folder by name, over one file or the shards of an index."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        self._handles: dict[Path, Any] = {}
        self._headers: dict[Path, tuple[int, dict[str, Any]]] = {}
        index, single = folder / INDEX, folder / SINGLE
        if index.is_file():
            self._files = _shards(index, single)
            self.listing = index
        elif single.is_file():
            self._files = dict.fromkeys(self._open(single).keys(), single)
            self.listing = single
        else:
            raise ModelError(f"model folder {folder} has no {SINGLE} and no {INDEX}{without_weights(folder)}")

    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._files)

    def file(self, name: str) -> Path:
        """The file that holds a tensor. Raises ModelError if none does."""
        if name not in self._files:
            raise ModelError(f"{self.listing} has no tensor {name}{self._hint(name)}")
        return self._files[name]

    def _hint(self, name: str) -> str:
        """Where a tensor that is not there may be, as the end of a sentence."""
        base = name.removesuffix(".weight")
        packed = next((f"{base}.{end}" for end in PACKED if f"{base}.{end}" in self._files), "")
        if packed:
            return f"; it is stored quantised ({packed}), and only float weights are supported"
        other = next(
            (n for n in (name.removeprefix("model."), f"language_model.{name}") if n in self._files), ""
        )
        return f"; it has {other}, as another kind of model names it" if other else ""

    def stamps(self) -> tuple[tuple[str, int, int], ...]:
        """Path, bytes and time of change of each file: whether its numbers are those of before."""
        stats = [(str(path), path.stat()) for path in sorted(set(self._files.values()))]
        return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)

    def dtype(self, name: str) -> str:
        """A tensor's dtype, as safetensors names it."""
        return str(self._slice(name).get_dtype())

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor."""
        start, end = self._entry(name)[1]["data_offsets"]
        return int(end - start)

    def check(
        self,
        name: str,
        shape: tuple[int, ...],
        assumed: Sequence[str] = (),
        dtypes: Sequence[str] = DTYPES,
    ) -> None:
        """Raise ModelError unless the tensor is there with this shape and a dtype that can be read.

        `assumed` are the fields that config.json leaves to Transformers' defaults, which may be why.
        """
        found, dtype = self.shape(name), self._slice(name).get_dtype()
        if found != shape:
            silent = f" (with {', '.join(assumed)}, Transformers' defaults)" if assumed else ""
            raise ModelError(
                f"{self.file(name)}: {name} has shape {list(found)}, config.json says {list(shape)}{silent}"
            )
        if dtype not in dtypes:
            raise ModelError(
                f"{self.file(name)}: {name} is stored as {dtype}; supported: {', '.join(dtypes)}"
            )

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self._slice(name).get_shape())

    def float32(self, name: str, rows: slice = slice(None)) -> F32:
        """Rows of a tensor as float32, exact."""
        part = self._slice(name)
        if part.get_dtype() == "BF16":
            return from_bf16(np.array(self.mapped(name)[rows]))
        values: F32 = part[rows].astype(np.float32)
        return values

    def largest(self, name: str, rows_at_once: int) -> float:
        """The magnitude of a tensor's largest number; NaN or infinity if it holds one."""
        shape = self.shape(name)
        found = 0.0
        for start in range(0, shape[0], rows_at_once):
            part = slice(start, min(start + rows_at_once, shape[0]))
            if self._slice(name).get_dtype() == "BF16":
                top = np.max(
                    self.mapped(name)[part] & np.uint16(0x7FFF)
                )  # magnitudes are ordered as their bits
                value = float(from_bf16(np.array([top]))[0])
            else:
                value = float(np.max(np.abs(self._slice(name)[part])))
            if not isfinite(value):
                return value
            found = max(found, value)
        return found

    def _slice(self, name: str) -> Any:
        path = self.file(name)
        try:
            return self._open(path).get_slice(name)
        except (SafetensorError, UnicodeEncodeError):  # no file holds a lone surrogate
            raise ModelError(f"{path} has no tensor {name}, though {self.listing} says so") from None

    def _open(self, path: Path) -> Any:
        if path not in self._handles:
            if not path.is_file():
                raise ModelError(_absent(path, self.listing.name))
            try:
                self._handles[path] = safe_open(path, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise _unreadable(path, error) from None
        return self._handles[path]

    def mapped(self, name: str) -> npt.NDArray[Any]:
        """A tensor as it lies in its file, mapped; bfloat16 and e4m3, which NumPy has not, as unsigned numbers of their bits."""
        path = self.file(name)
        offset, entry = self._entry(name)
        kind = np.dtype(NUMPY[entry["dtype"]])
        return np.memmap(path, kind, "r", offset + entry["data_offsets"][0], tuple(entry["shape"]))

    def _entry(self, name: str) -> tuple[int, dict[str, Any]]:
        """Where a file's data begin, and what its header says of a tensor.

        Layout (github.com/safetensors/safetensors, README): 8 bytes with the header's length, the
        header as JSON, the data; offsets count from the data's start. `safe_open` has checked them.
        """
        path = self.file(name)
        self._slice(name)  # an index may name what is no safetensors file, and a tensor that the file has not
        if path not in self._headers:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                self._headers[path] = 8 + length, json.loads(file.read(length))
        start, header = self._headers[path]
        return start, header[name]


def _shards(index: Path, single: Path) -> dict[str, Path]:
    """Tensor to file, as an index has it. Raises ModelError for one that does not go with the files beside it."""
    table, folder = _weight_map(index), index.parent
    for file in sorted(set(table.values())):
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ModelError(f"{index} names {file!r:.60}, which is not within the folder")
        if not isfile(folder / file) and single.is_file():  # a name that no file can have is not there
            raise ModelError(
                f"{index} names {file}, which is not there, and {SINGLE} lies beside it: if that file is whole, the index is "
                "left over from other weights; remove it"
            )
    if single.is_file() and SINGLE not in table.values():
        raise ModelError(
            f"{index.parent} has two sets of weights, {SINGLE} and the shards of {INDEX}: remove one of them"
        )
    return {name: folder / file for name, file in table.items()}


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor to shard. Raises ModelError that names the file."""
    try:
        content = index.read_bytes()
        if content.startswith(LFS_POINTER):
            raise pointer_error(index)
        table = json.loads(content.decode())["weight_map"]
        return {str(name): str(file) for name, file in table.items()}
    except KeyError:
        raise ModelError(f"{index} has no weight_map") from None
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"{index} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ModelError(
            f"{index} cannot be read: it is no JSON with a weight_map of tensors to files"
        ) from None


def _absent(path: Path, named_by: str) -> str:
    """Why a file that is named cannot be opened."""
    if path.is_symlink():
        return f"{path} cannot be read: it is a link to nothing ({path.readlink()}): download it again"
    if path.exists():
        return f"{path} cannot be read: it is not a regular file"
    return f"{path} cannot be read: No such file, though {named_by} names it: the download is incomplete"


def _unreadable(path: Path, error: Exception) -> ModelError:
    """What is wrong with a file that safetensors cannot open, by its first bytes and its size."""
    try:
        with path.open("rb") as file:
            start, size = file.read(len(LFS_POINTER)), path.stat().st_size
    except OSError as failed:
        return ModelError(f"{path} cannot be read: {failed.strerror}")
    if start == LFS_POINTER:
        return pointer_error(path)
    if start[:1] == b"<" or start[:2] == b"PK" or start[:4] == b"GGUF":
        kind = {b"<": "a web page", b"P": "a zip file, as PyTorch saves", b"G": "a GGUF file"}[start[:1]]
        return ModelError(f"{path} cannot be read: it is {kind}, not safetensors")
    if size < 8 or int.from_bytes(start[:8], "little") > size - 8:
        return ModelError(
            f"{path} cannot be read: with {size} bytes it was cut short, or is no safetensors file"
        )
    return ModelError(f"{path} cannot be read: it was cut short or is damaged ({error})")
