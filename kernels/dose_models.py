"""Shapes made for experiment 13 of the claim: small models whose bytes do not grow with the context as attention's do.

>>> short, long = (DOSES["dose-window"].cached_numbers(context) for context in (1024, 8192))
>>> short == long
True

Widths of a head, a state, a latent row and an index are those of published models; hidden state, MLP and vocabulary are narrow, so that
what depends on the context is not lost among matrices. `unheld` is what each would be if its layers saw every token.
"""

from __future__ import annotations

from dataclasses import replace

from membound.kernels.mixers import GatedDelta, Indexer, Latent, Mamba2
from membound.kernels.parts import Attention, Decoder, Layer, Mixer, Mlp
from membound.kernels.rope import Rope

HIDDEN, VOCAB = 512, 4096
SEEN = 1024
"""Tokens of a window, and tokens that an index selects."""
_MLP = Mlp(512)


def _model(name: str, *mixers: Mixer) -> Decoder:
    """A layer for each mixer."""
    return Decoder(name, HIDDEN, VOCAB, tuple(Layer(mixer, _MLP) for mixer in mixers), eps=1e-6)


_WINDOWED = Attention(32, 8, 128, window=SEEN)
_BESIDE_DELTA = Attention(16, 1, 128, head_norm="head", gated=True, rope=Rope(1e7, dim=32))
_BESIDE_MAMBA = Attention(16, 1, 128, rope=None)
_INDEXED = Latent(4, 256, index=Indexer(4, 128, SEEN))
DOSES = {
    one.name: one
    for one in (
        _model("dose-window", _WINDOWED, _WINDOWED),
        _model("dose-delta", *(GatedDelta(8, 16, 128, 128),) * 3, _BESIDE_DELTA),
        _model("dose-mamba", *(Mamba2(32, 64, 128, 8),) * 3, _BESIDE_MAMBA),
        _model("dose-index", _INDEXED, _INDEXED),
    )
}


def unheld(decoder: Decoder) -> Decoder:
    """The same with attention to every token in each layer: without windows and indexes, and in place of states what stands beside them."""
    attention = next(layer.mixer for layer in decoder.layers if isinstance(layer.mixer, Attention | Latent))
    whole = (
        replace(attention, window=0) if isinstance(attention, Attention) else replace(attention, index=None)
    )
    return replace(decoder, layers=tuple(replace(layer, mixer=whole) for layer in decoder.layers))
