"""Shapes of the models that are served: what their parts hold, for those run here and for those that are only predicted.

>>> round(shape_of("deepseek-v3").stored_weights / 1e9), round(shape_of("deepseek-v3").token_weights / 1e9, 1)
(671, 36.6)
"""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path

from membound.kernels.decoder_folder import read_decoder
from membound.kernels.dose_models import DOSES
from membound.kernels.mistaken_paths import no_model
from membound.kernels.models import GGUF, MODELS, get_model
from membound.kernels.operations import SpecError
from membound.kernels.parts import Attention, Decoder, Layer, Mlp
from membound.kernels.published import SHAPES

__all__ = ["ALIASES", "SHAPES", "shape_by_size", "shape_of"]

ALIASES = {
    "deepseek-r1": "deepseek-v3",
    "deepseek-v3.1": "deepseek-v3",
    "llama-3.1-8b": "llama-3-8b",
    "llama-3.1-70b": "llama-3-70b",
    "llama-3.3-70b": "llama-3-70b",
    "llama-3-405b": "llama-3.1-405b",
    "llama-7b": "llama-2-7b",
    "llama-2-70b": "llama-3-70b",
    "deepseek-r1-distill-14b": "qwen2.5-14b",
}
"""Names of models that share a shape with another. Llama-2-70B differs in its vocabulary alone (1 % of its weights)."""


def shape_by_size(name: str, weights: float) -> Decoder:
    """A dense decoder of that many weights in the proportions of Llama: for rows of models whose shape is not known.

    Layers grow with the power 0.42 of the weights from Llama-3-8B's 32 (80 at 70 billion); 12 h² weights in a layer of width h,
    8 KV heads of 128.
    """
    layers = max(1, round(32 * (weights / 8e9) ** 0.42))
    each = weights / layers
    hidden = max(1, round((each / 12) ** 0.5))
    attention = Attention(max(1, round(hidden / 128)), 8, 128)
    used = Layer(attention, Mlp(0)).streamed(hidden, 1)
    width = max(1, round((each - used) / (2 * hidden)))
    return Decoder(name, hidden, 0, (Layer(attention, Mlp(width, gated=False)),) * layers)


def shape_of(name: str) -> Decoder:
    """The shape of a model by name, alias or local folder. Raises SpecError with the nearest names, ModelError for a folder."""
    known = ALIASES.get(name, name)
    if known in SHAPES:
        return SHAPES[known]
    if known in MODELS:
        return MODELS[known].decoder
    if known in DOSES:
        return DOSES[known]
    if os.path.isdir(known):
        return read_decoder(Path(known))
    if known.endswith(GGUF) and os.path.isfile(known):
        return replace(get_model(known).decoder, folder=known)
    if meant := no_model(known):
        raise SpecError(meant)
    names = [*MODELS, *SHAPES, *ALIASES]
    near = difflib.get_close_matches(name, names, 3)
    hint = (
        f"; nearest: {', '.join(near)}, or"
        if near
        else f": it is none of the {len(names)} names in docs/prediction.md, nor"
    )
    raise SpecError(f"unknown model {name!r}{hint} a folder with config.json or a file in GGUF")
