"""What the files of a model hold in all, whoever runs it: the way of storing, and the bytes of its tensors.

>>> stored_facts("/models/gpt-oss-20b")
StoredFacts(title='mxfp4', tensors=459, nbytes=13761264768, streamed_bytes=12603354048)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membound.kernels.config_json import read_config
from membound.kernels.decoder_folder import text_part
from membound.kernels.gguf_header import read_header
from membound.kernels.model import ModelError
from membound.kernels.weights.stored.quantization import NAMES, scheme_of, settings_of
from membound.kernels.weights.tensor_files import TensorFiles

EMBEDDINGS = ("embed_tokens.weight", "token_embd.weight", "wte.weight", "word_embeddings.weight")
"""Ends of the names that embedding tables have."""
HEADS = ("lm_head.", "output.weight")
"""Beginnings of the names that LM heads have; where there is none, the table is one."""


@dataclass(frozen=True, slots=True)
class StoredFacts:
    """`nbytes` of all tensors; `streamed_bytes` without an embedding table that is not the LM head too."""

    title: str
    tensors: int
    nbytes: int
    streamed_bytes: int


def stored_facts(model: str) -> StoredFacts | None:
    """Of a folder with weights, or a file in GGUF; None of anything else. Raises ModelError for files that cannot be read."""
    path = Path(model)
    if os.path.isfile(path):
        header = read_header(path)
        sizes = {name: entry.nbytes for name, entry in header.tensors.items()}
        return _facts(f"GGUF, architecture {header.text('general.architecture')}", sizes)
    if not any(path.glob("*.safetensors*")):
        return None
    files = TensorFiles(path)
    return _facts(_title(path / "config.json"), {name: files.nbytes(name) for name in files.names()})


def _facts(title: str, sizes: dict[str, int]) -> StoredFacts:
    total = sum(sizes.values())
    untied = any(name.startswith(HEADS) or ".lm_head." in name for name in sizes)
    tables = sum(size for name, size in sizes.items() if untied and name.endswith(EMBEDDINGS))
    return StoredFacts(title, len(sizes), total, total - tables)


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
