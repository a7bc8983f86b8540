"""The decoder of a step's or a prompt's inputs, with the linears, attentions and experts that torch has for them.

>>> with Background(threads) as background:
...     decoder = decoder_for(inputs, Variants(), "cpu", background)

Imported only where torch is.
"""

from __future__ import annotations

from collections.abc import Sequence

from membound.backends.background import Background
from membound.backends.pytorch.linear import FormatLinear, make_linear
from membound.backends.pytorch.model import Decoder, attention_maker, build_decoder
from membound.backends.pytorch.routed_layer import RoutedHalf
from membound.backends.pytorch.variants import Variants
from membound.kernels.inputs import LayerWeights, ModelInputs, Weight
from membound.kernels.parts import Experts
from membound.kernels.weights.formats import F32


def decoder_for(inputs: ModelInputs, variants: Variants, device: str, background: Background) -> Decoder:
    """The decoder with its caches on `device`, and its weights, too, unless they are to stream; ready when `background` has ended."""
    home = "cpu" if variants.offload else device
    work = inputs.work

    def linear(weights: Sequence[Weight], bias: F32 | None, rows: int) -> FormatLinear:
        return make_linear(weights, bias, work.act, rows, home, background)

    def routed(index: int, part: Experts, weights: LayerWeights) -> RoutedHalf:
        rows, given = len(inputs.x), inputs.routes(index) if inputs.plan is None else None
        return RoutedHalf(
            part, weights, linear, rows, work.act, work.distinct, background, given, inputs.model.decoder.eps
        )

    return build_decoder(inputs, linear, attention_maker(inputs, variants.form), device, home, routed)
