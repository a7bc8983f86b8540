"""What the files of a model hold in all, whoever runs it: the way of storing, and the bytes of its tensors.

>>> stored_facts("/models/gpt-oss-20b")
StoredFacts(title='mxfp4', tensors=459, nbytes=13761264768, streamed_bytes=12603354048)
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membound.kernels.config_json import NESTED, read_config
from membound.kernels.decoder_folder import text_part
from membound.kernels.gguf_header import read_header
from membound.kernels.model import ModelError
from membound.kernels.weights.stored.quantization import NAMES, scheme_of, settings_of
from membound.kernels.weights.tensor_files import TensorFiles
from membound.kernels.weights.tensor_names import PREDICTED

EMBEDDINGS = ("embed_tokens.weight", "token_embd.weight", "wte.weight", "word_embeddings.weight")
"""Ends of the names that embedding tables have."""
HEADS = ("lm_head.", "output.weight")
"""Beginnings of the names that LM heads have; where there is none, the table is one."""


SENSES = re.compile(r"(model\.)?(embed_)?(visual|vision|audio|multi_modal|mm_)")
"""How the names of tensors begin that see or hear."""
LAYER = re.compile(r"(?:layers|blk)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class StoredFacts:
    """`nbytes` of all tensors; `beside_bytes` of those that writing a token does not take: what sees or hears, and layers that guess
    tokens ahead; `streamed_bytes` of the others without an embedding table that is not the LM head too.
    """

    title: str
    tensors: int
    nbytes: int
    streamed_bytes: int
    beside_bytes: int = 0


def stored_facts(model: str) -> StoredFacts | None:
    """Of a folder with weights, or a file in GGUF; None of anything else, or where a tensor has an unknown type.

    Raises ModelError for files that cannot be read.
    """
    path = Path(model)
    if os.path.isfile(path):
        header = read_header(path)
        sizes = {name: entry.nbytes for name, entry in header.tensors.items()}
        if not all(sizes.values()):
            return None  # of a type that is not known
        kind = header.text("general.architecture")
        return _facts(f"GGUF, architecture {kind}", sizes, header.count(f"{kind}.block_count"))
    if not any(path.glob("*.safetensors*")):
        return None
    files = TensorFiles(path)
    config = path / "config.json"
    sizes = {name: files.nbytes(name) for name in files.names()}
    return _facts(_title(config), sizes, _layers(read_config(config)))


def _facts(title: str, sizes: dict[str, int], layers: int) -> StoredFacts:
    total = sum(sizes.values())
    beside = {name for name in sizes if _is_beside(name, layers)}
    own = {name: size for name, size in sizes.items() if name not in beside}
    untied = any(name.startswith(HEADS) or ".lm_head." in name for name in own)
    tables = sum(size for name, size in own.items() if untied and name.endswith(EMBEDDINGS))
    streamed = sum(own.values())
    return StoredFacts(title, len(sizes), total, streamed - tables, total - streamed)


def _is_beside(name: str, layers: int) -> bool:
    """Whether a tensor is of what sees, hears, or guesses tokens ahead; DeepSeek numbers such a layer behind the last."""
    if name.startswith(PREDICTED) or SENSES.match(name):
        return True
    found = LAYER.search(name)
    return found is not None and bool(layers) and int(found[1]) >= layers


def _layers(fields: dict[str, Any]) -> int:
    """How many layers a config.json says; 0: it does not."""
    parts = (fields, *(fields.get(name) for name in NESTED))
    found = [
        part["num_hidden_layers"] for part in parts if isinstance(part, dict) and "num_hidden_layers" in part
    ]
    return found[-1] if found and isinstance(found[-1], int) else 0


def _title(path: Path) -> str:
    """How a config.json says that matrices are stored, also where that is not run."""
    fields = read_config(path)
    found: Any = fields.get(NAMES[0])
    try:
        found = settings_of(path, fields, text_part(path, fields)[0])
        scheme = scheme_of(path, {NAMES[0]: found})
    except ModelError:
        method = found.get("quant_method") if isinstance(found, dict) else None
        return f"{method:.60}" if isinstance(method, str) else "an unknown quantisation"
    return "floats" if scheme is None else scheme.title
