"""What somebody meant who named a path that is no model: the end of the message that refuses it.

>>> without_config(Path("models--meta-llama--Llama-3.2-1B"))
'; it is of Hugging Face\'s cache: name models--meta-llama--Llama-3.2-1B/snapshots/4e20de3'
"""

from __future__ import annotations

import json
import os
from pathlib import Path

CONFIG = "config.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.*"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAGIC = b"GGUF"
LISTED = 3
"""Folders that a message names at most."""
OTHER_WEIGHTS = (
    ADAPTER_WEIGHTS,
    "*-of-*.safetensors",
    "consolidated*.safetensors",
    "*.gguf",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "*.bin",
    "*.safetensors",
    "*.pth",
    "*.pt",
    "*.ckpt",
    "*.onnx",
)
"""Weights in other forms than `SINGLE` and `INDEX`, by file, the telling ones first."""


def no_model(name: str) -> str:
    """Why a name that looks like a path is no model; '' for one that looks like a model's name."""
    path = Path(name)
    if name.startswith("~"):
        return (
            f"{name!r} is no path: a shell leaves ~ as it is within a word; write {os.path.expanduser(name)}"
        )
    if name and os.path.isfile(path):
        return f"{name!r} is a file, and a model is a folder with {CONFIG} and safetensors{_of_file(path)}"
    if "\\" in name or "/" in name or name.startswith(".") or path.suffix in (".gguf", ".safetensors"):
        return f"there is no folder or file {name!r:.200} here, and nothing is downloaded"
    return ""


def _of_file(path: Path) -> str:
    """What to name in place of a file."""
    if path.suffix == ".onnx":
        return f"; an ONNX file is a work of its own, onnx:file={path}"
    if _begins(path, MAGIC):
        return ", or a file in GGUF whose name ends in .gguf: link to it under such a name"
    if (path.parent / CONFIG).is_file():
        return f": name its folder, {path.parent}"
    return ", or a file in GGUF"


def without_config(folder: Path) -> str:
    """What a folder without config.json holds in its place."""
    if (folder / ADAPTER).is_file():
        return _adapter(folder)
    for pattern, remedy in (
        ("*.gguf", "a GGUF file is named itself, model={}"),
        ("*.onnx", "an ONNX file is a work of its own, onnx:file={}"),
    ):
        if found := sorted(folder.glob(pattern)):
            return f"; it has {found[0].name}: {remedy.format(found[0])}"
    if within := sorted(path.parent for path in folder.glob(f"snapshots/*/{CONFIG}")):
        return f"; it is of Hugging Face's cache: name {within[-1]}"
    if within := sorted(path.parent for path in folder.glob(f"*/{CONFIG}")):
        more = f" and {len(within) - LISTED} more" if len(within) > LISTED else ""
        return f"; folders in it have one: {', '.join(map(str, within[:LISTED]))}{more}"
    if (folder / "params.json").is_file():
        return "; it has params.json, its maker's own: save the model by Transformers"
    return ""


def without_weights(folder: Path) -> str:
    """What a folder without safetensors holds in their place."""
    for path in (folder / SINGLE, folder / INDEX):
        if path.is_symlink():
            return f": {path.name} is a link to nothing ({path.readlink()}): download it again"
    other = next((path for pattern in OTHER_WEIGHTS for path in sorted(folder.glob(pattern))), None)
    if other is None:
        return ""
    if other.match(ADAPTER_WEIGHTS):
        return _adapter(folder)
    return f"; it has {other.name}{_remedy(other)}"


def _remedy(other: Path) -> str:
    """What to do about weights in another form."""
    if other.suffix == ".gguf":
        return f": a GGUF file is named itself, model={other}"
    if other.suffix == ".onnx":
        return f": an ONNX file is a work of its own, onnx:file={other}"
    if other.name.startswith("consolidated"):
        return ", with names of its maker's: save the model by Transformers"
    if other.match("*-of-*.safetensors"):
        return f", a shard that no {INDEX} names: the download is incomplete"
    if other.suffix == ".safetensors":
        return f": call it {SINGLE} if that is the whole model"
    return ": save the model as safetensors"


def _adapter(folder: Path) -> str:
    """That a folder changes a model and is none."""
    base = ""
    try:
        named = json.loads((folder / ADAPTER).read_bytes())["base_model_name_or_path"]
        base = f" of {named:.100}" if isinstance(named, str) and named.isprintable() else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # a damaged file says no less that this is an adapter
    return f"; it is an adapter{base}: merge it into that model (PEFT's merge_and_unload) and save the whole"


def _begins(path: Path, with_: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(with_)) == with_
    except OSError:
        return False
