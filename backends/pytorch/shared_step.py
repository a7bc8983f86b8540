"""A rank's part of a decode step: a decoder whose o and down add up what all ranks have, and whose logits the first one gathers.

>>> from membound.backends.pytorch.stopwatch import host_stopwatch
>>> from membound.kernels.split import rank_inputs
>>> exchanging = host_stopwatch()
>>> step = SharedStep(rank_inputs(inputs, rank=0, ranks=2), 0, 2, threads=1, device="cpu", exchanging=exchanging)
>>> logits = step.run()                # [batch, vocab] float32 on the first rank, None on the others
>>> exchanging.seconds()               # of that in exchanges, waiting for the others among them

Imported only where torch is.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from membound.backends.background import Background
from membound.backends.pytorch.linear import FormatLinear, as_tensor
from membound.backends.pytorch.model import DecoderLayer
from membound.backends.pytorch.stopwatch import Stopwatch
from membound.backends.pytorch.variants import Variants
from membound.backends.pytorch.whole_model import decoder_for
from membound.kernels.inputs import ModelInputs


class SharedStep:
    """The decoder of one rank on its device. What its exchanges take is added to `exchanging`."""

    def __init__(
        self, inputs: ModelInputs, rank: int, ranks: int, threads: int, device: str, exchanging: Stopwatch
    ) -> None:
        with Background(threads) as background:
            decoder = decoder_for(inputs, Variants(), device, background)
        for layer in decoder.layers:
            if not isinstance(layer, DecoderLayer):
                raise AssertionError(f"{type(layer).__name__} is no DecoderLayer")
            layer.o = _Summed(layer.o, self)
            layer.down = _Summed(layer.down, self)
        self.stored_bytes = decoder.stored_bytes
        self._decoder = decoder
        self._rank, self._ranks = rank, ranks
        self._exchanging = exchanging
        with torch.inference_mode():
            self._x = as_tensor(inputs.x, "f32").to(device, copy=True)

    @torch.inference_mode()
    def run(self) -> Tensor | None:
        """One step; accelerators return at once."""
        part: Tensor = self._decoder(self._x)
        return self._gathered(part.contiguous())

    def add_up(self, summand: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        with self._exchanging:
            distributed.all_reduce(summand)
        return summand

    def _gathered(self, part: Tensor) -> Tensor | None:
        parts = [torch.empty_like(part) for _ in range(self._ranks)] if self._rank == 0 else None
        with self._exchanging:
            distributed.gather(part, parts)
        return None if parts is None else torch.cat(parts, -1)


class _Summed(FormatLinear):
    """A matrix cut by columns: each rank's output is a summand. The bytes are those of the matrix within."""

    def __init__(self, inner: FormatLinear, step: SharedStep) -> None:
        super().__init__(inner.n, inner.k, None)
        self.inner, self.activation, self.stored_bytes = inner, inner.activation, 0
        self._add_up = step.add_up

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, its columns] -> the sum of all ranks' products [rows, n]."""
        return self._add_up(self.inner(x))
