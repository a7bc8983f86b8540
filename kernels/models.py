"""Model shapes by name: what ``llama-3.2-1b`` means in matrices.

>>> get_model("llama-3-8b").layer_matrices["down"]
(4096, 14336)

Shapes are those of each model's published config.json. A folder that holds a Hugging Face config.json is a model too
(`model_folder`); nothing is ever downloaded.
"""

from __future__ import annotations

from pathlib import Path

from membound.kernels.dose_models import DOSES
from membound.kernels.mistaken_paths import no_model
from membound.kernels.model import Model, ModelError, model_of
from membound.kernels.published import SHAPES

GGUF = ".gguf"
"""The end of the name of a file that is a model."""
__all__ = ["MODELS", "Model", "ModelError", "get_model"]

_LLAMA3_ROPE = (32.0, 1.0, 4.0, 8192.0)

# Sources: the config.json published with each model; Llama-30B is the 32.5B model of the first Llama
# paper (arXiv 2302.13971, table 2); GPT-3 175B is table 2.1 of arXiv 2005.14165, run here with RMSNorm
# and RoPE in place of LayerNorm and learned positions (less than 0.01 % of its bytes) and a plain MLP.
MODELS = {
    m.name: m
    for m in (
        Model("tiny", 256, 2, 8, 2, 32, 512, 1000, tied=True),
        Model("llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 128256, 5e5, tied=True, rope_scaling=_LLAMA3_ROPE),
        Model("llama-3-8b", 4096, 32, 32, 8, 128, 14336, 128256, 5e5),
        Model("llama-3-70b", 8192, 80, 64, 8, 128, 28672, 128256, 5e5),
        Model("llama-2-7b", 4096, 32, 32, 32, 128, 11008, 32000),
        Model("llama-2-13b", 5120, 40, 40, 40, 128, 13824, 32000),
        Model("llama-30b", 6656, 60, 52, 52, 128, 17920, 32000, norm_eps=1e-6),
        Model("qwen2.5-0.5b", 896, 24, 14, 2, 64, 4864, 151936, 1e6, 1e-6, tied=True, qkv_bias=True),
        Model("qwen2.5-1.5b", 1536, 28, 12, 2, 128, 8960, 151936, 1e6, 1e-6, tied=True, qkv_bias=True),
        Model("qwen2.5-7b", 3584, 28, 28, 4, 128, 18944, 152064, 1e6, 1e-6, qkv_bias=True),
        Model("gpt-3-175b", 12288, 96, 96, 96, 128, 49152, 50257, tied=True, gated=False),
    )
}
PUBLISHED = tuple(name for name, shape in SHAPES.items() if not shape.not_known)
"""Published models that are run too, from their parts."""


def get_model(name: str) -> Model:
    """The model of that name, or of that local folder as it is now.

    A built-in name means the built-in model, also beside a folder of that name; ``./tiny`` is the folder. Raises
    ModelError that lists what is known, or names what is wrong in the folder.
    """
    if name in MODELS:
        return MODELS[name]
    if name in SHAPES or name in DOSES:
        return model_of(SHAPES.get(name) or DOSES[name])
    try:
        is_folder = bool(name) and Path(name).is_dir()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"model folder {name[:60]!r} cannot be looked up: {why}") from None
    if is_folder:
        from membound.kernels.model_folder import read_folder

        return read_folder(Path(name))
    if name.endswith(GGUF) and Path(name).is_file():
        from membound.kernels.gguf_model import read_gguf

        return read_gguf(Path(name))
    if meant := no_model(name):
        raise ModelError(meant)
    raise ModelError(
        f"unknown model {name!r}; known: {', '.join((*MODELS, *PUBLISHED, *DOSES))}, or a folder with config.json, or a file in GGUF"
    )
