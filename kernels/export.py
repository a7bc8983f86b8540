"""A work's model as a Hugging Face folder that any engine can load: config.json, tokenizer, safetensors.

>>> from membound.kernels.seeded import make_inputs
>>> from membound.kernels.work import parse
>>> export_model(make_inputs(parse("step:model=tiny,cache=prompt"), seed=1), Path("models/tiny"))
1386496

The numbers are those that every backend gets for the same spec and seed: matrices in the work's format,
norms and biases in float32. Tensors are made and written one after the other, so that a model larger than
memory can be exported. The tokenizer is of `tokenizer`, whatever the model is called.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.errors import MemboundError
from membound.kernels.export_routed import (
    Architecture,
    architecture_of,
    layer_tensors,
    numbers_of,
    routed_config,
)
from membound.kernels.features import features, tokens_of
from membound.kernels.inputs import ModelInputs
from membound.kernels.model import Model
from membound.kernels.parts import Experts
from membound.kernels.tokenizer import SPECIAL, tokenizer_files
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.weights.tensor_names import TensorNames

DTYPES = {"f32": ("F32", "float32"), "bf16": ("BF16", "bfloat16"), "f16": ("F16", "float16")}
"""Weight format to its names in safetensors and in config.json."""
POSITIONS = 131072
"""Longest context that config.json allows, that of Llama 3.2."""
SMALL_FILES_BYTES = 8 << 20
"""Room for config.json and a tokenizer of 150 000 words."""

Array = npt.NDArray[Any]
Layer = Callable[[int], LayerWeights]


class ExportError(MemboundError, ValueError):
    """A model cannot be exported; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An entry of a safetensors file; `make` gives its numbers when their turn has come."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Array]

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * (4 if self.dtype == "F32" else 2)


def export_model(inputs: ModelInputs, folder: Path) -> int:
    """Write the folder, which must be empty or not be there; returns the bytes of its weights.

    Raises ExportError: a format without a plain tensor type, a model that no config.json describes, a
    folder with something in it, a disk that is too small or fails. config.json is written last, so a
    folder that was cut short is no model.
    """
    model, work = inputs.model, inputs.work
    if work.weight not in DTYPES:
        raise ExportError(
            f"weight={work.weight} has no plain form in safetensors; export {', '.join(DTYPES)} instead"
        )
    config = _config(model, DTYPES[work.weight][1], tokens_of(work))
    tensors = list(_tensors(inputs))
    size = sum(tensor.size_bytes for tensor in tensors)
    _make_folder(folder, size)
    try:
        _write_safetensors(folder / "model.safetensors", tensors)
        provenance = {"spec": work.spec, "seed": inputs.seed}
        for name, content in {
            **tokenizer_files(model.vocab, POSITIONS),
            "membound.json": provenance,
            "config.json": config,
        }.items():
            (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error.strerror}") from None
    return size


def _make_folder(folder: Path, size: int) -> None:
    """Raises ExportError unless there is an empty folder with room for `size` bytes."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportError(f"{folder} is not an empty folder; name one that is not there yet")
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ExportError(f"{folder} cannot be made: {error.strerror}") from None
    if size + SMALL_FILES_BYTES > free:
        raise ExportError(
            f"{folder}: the model takes {size} bytes, and the disk has {free} left; layers=N exports fewer layers"
        )


def refusal(model: Model, tokens: int) -> str | None:
    """Why a model of this kind is not exported, whatever its sizes, or None."""
    if architecture_of(model.decoder):
        return None
    found = features(model.decoder, tokens)
    return f"{model.name} has {', '.join(found)}, which is not exported" if found else None


def _config(model: Model, dtype: str, tokens: int) -> dict[str, Any]:
    """config.json. Raises ExportError for shapes that no architecture of Transformers has, and for what is not written yet."""
    if reason := refusal(model, tokens):
        raise ExportError(reason)
    own = routed_config(model.decoder) if architecture_of(model.decoder) else _dense_config(model)
    return own | {
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "vocab_size": model.vocab,
        "max_position_embeddings": POSITIONS,
        "hidden_act": "silu",
        "torch_dtype": dtype,
        "bos_token_id": SPECIAL.index("<s>"),
        "eos_token_id": SPECIAL.index("</s>"),
        "pad_token_id": SPECIAL.index("<pad>"),
    }


def _dense_config(model: Model) -> dict[str, Any]:
    """What it says of Llama, Qwen2 and Qwen3. Raises ExportError for a model that is none of them."""
    if not model.gated:
        raise ExportError(f"{model.name} has an MLP without a gate; no architecture of Transformers fits it")
    family = "qwen3" if model.qk_norm else "qwen2" if model.qkv_bias else "llama"
    if model.qkv_bias and (model.qk_norm or model.q_dim != model.hidden):
        raise ExportError(f"{model.name} has biases in a shape that no architecture of Transformers has")
    rope: dict[str, Any] = {"rope_type": "default"}
    if model.rope_scaling:
        factor, low, high, original = model.rope_scaling
        rope = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
        rope["original_max_position_embeddings"] = int(original)
    return {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "intermediate_size": model.intermediate,
        "num_attention_heads": model.q_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "rope_parameters": rope | {"rope_theta": model.rope_theta},
        "tie_word_embeddings": model.tied,
        "attention_bias": False,
        "mlp_bias": False,
    }


def _tensors(inputs: ModelInputs) -> Iterator[_Tensor]:
    """Every tensor of the model, layer by layer; only the layer that is being written is held."""
    m, dtype, layer = inputs.model, DTYPES[inputs.work.weight][0], lru_cache(maxsize=1)(inputs.layer)

    names = TensorNames(m, family="llama")
    yield _Tensor(names.embedding, dtype, (m.vocab, m.hidden), lambda: inputs.source.embedding_table().values)
    found = architecture_of(m.decoder)
    for index in range(m.layers):
        if found is not None:
            yield from _routed_tensors(inputs, layer, index, found)
            continue
        for name, shape in m.layer_matrices.items():
            make = partial(_matrix, layer, index, name)
            yield _Tensor(names.matrix(index, name).tensor, dtype, shape, make)
        for name, called, width in names.vectors(index):
            yield _Tensor(called, "F32", (width,), partial(_vector, layer, index, name))
    yield _Tensor(names.final_norm, "F32", (m.hidden,), inputs.final_norm)
    if not m.tied or found is not None:
        yield _Tensor(names.lm_head, dtype, (m.vocab, m.hidden), lambda: inputs.lm_head().values)


def _routed_tensors(inputs: ModelInputs, layer: Layer, index: int, found: Architecture) -> Iterator[_Tensor]:
    """A layer of a model with experts."""
    decoder, dtype = inputs.model.decoder, DTYPES[inputs.work.weight][0]
    kind = decoder.layers[index]
    count = kind.mlp.count if isinstance(kind.mlp, Experts) else 0
    for name, what, shape, made_of in layer_tensors(kind, decoder.hidden, found):
        make = partial(_routed_tensor, layer, index, made_of, count)
        stored = dtype if what == "matrix" else "F32"
        yield _Tensor(f"model.layers.{index}.{name}", stored, shape, make)


def _routed_tensor(layer: Layer, index: int, made_of: str, count: int) -> Array:
    return numbers_of(layer(index), made_of, count)


def _matrix(layer: Layer, index: int, name: str) -> Array:
    return layer(index).matrices[name].values


def _vector(layer: Layer, index: int, name: str) -> Array:
    return layer(index).vectors[name]


def _write_safetensors(path: Path, tensors: list[_Tensor]) -> None:
    """The layout of github.com/safetensors/safetensors: length of the header, header as JSON, data."""
    header, offset = {}, 0
    for tensor in tensors:
        end = offset + tensor.size_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    scratch = path.with_name(f"{path.name}.partial")
    try:
        with scratch.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors:
                values = np.ascontiguousarray(tensor.make())
                if (values.nbytes, values.shape) != (tensor.size_bytes, tensor.shape):
                    raise AssertionError(f"{tensor.name} has another size than its header says")
                file.write(values.data.cast("B"))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
