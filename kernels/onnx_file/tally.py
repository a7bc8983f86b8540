"""What a decoder's operators read of its file, and the FLOPs of its products, counted while they are walked through.

>>> tally = Tally()
>>> tally.read([Origin(stored)], share=1.0)
>>> tally.bytes_of(scales=False)
16384

A tensor counts once however many operators read it, as much of it as the one that reads most: a table that is both the
embedding, of which rows are read, and the LM head counts as the LM head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from membound.kernels.onnx_file.graph import Stored


@dataclass(frozen=True, slots=True)
class Origin:
    """What of the file a value is: a tensor, or its scales."""

    stored: Stored
    is_scale: bool = False

    def as_scale(self) -> Origin:
        """The same tensor, read as the scales or zero points of another."""
        return Origin(self.stored, True)


@dataclass(slots=True)
class Tally:
    """Bytes read of each tensor, by name, and what products take."""

    reads: dict[str, int] = field(default_factory=dict)
    scales: set[str] = field(default_factory=set)
    flops: int = 0
    activations_read: int = 0
    activations_written: int = 0
    by_float16: set[str] = field(default_factory=set)
    """Tensors of float16 that products read whole: processors without such products get them widened."""

    def read(self, origins: Iterable[Origin], share: float = 1.0) -> None:
        """A share of these tensors is read; the largest counts."""
        for origin in origins:
            stored = origin.stored
            if stored.is_weight:
                self._note(origin, max(self.reads.get(stored.name, 0), round(share * stored.nbytes)))

    def read_part(self, origins: Iterable[Origin], share: float) -> None:
        """Another part of these tensors is read: parts add up, to the whole at most."""
        for origin in origins:
            stored = origin.stored
            if stored.is_weight:
                more = self.reads.get(stored.name, 0) + round(share * stored.nbytes)
                self._note(origin, min(stored.nbytes, more))

    def _note(self, origin: Origin, count: int) -> None:
        self.reads[origin.stored.name] = count
        if origin.is_scale:
            self.scales.add(origin.stored.name)

    def product(self, weights: Iterable[Origin], flops: int, taken: int, made: int) -> None:
        """A product of `flops`; with a tensor of the file it also reads and writes that many activations."""
        self.flops += flops
        found = [origin.stored for origin in weights if origin.stored.is_weight]
        if found:
            self.activations_read += taken
            self.activations_written += made
            self.by_float16 |= {one.name for one in found if one.kind.name == "float16"}

    def bytes_of(self, scales: bool) -> int:
        """Bytes of the tensors, or of the scales among them."""
        return sum(count for name, count in self.reads.items() if (name in self.scales) == scales)

    @property
    def float16_bytes(self) -> int:
        """Bytes of the matrices in float16."""
        return sum(self.reads.get(name, 0) for name in self.by_float16)
