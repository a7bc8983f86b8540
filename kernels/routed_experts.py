"""Experts on their own: the router and the MLPs to which it sends the rows of a batch.

>>> work = RoutedExperts(hidden=2048, width=768, batch=8)      # a layer of Qwen3-30B-A3B
>>> work.distinct, work.expert_bytes
(52, 9437184)

How the routes are planned, so that the bytes follow from the work: `membound.kernels.routing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from membound.kernels.operations import (
    ACTIVATION_BYTES,
    SpecError,
    Traffic,
    check_positive,
    check_weight_and_act,
    spec_of,
)
from membound.kernels.routing import codes_of, uniform_distinct
from membound.kernels.weights.formats import FORMATS

ROUTER_BYTES = 4
"""A router is float32 whatever the format: its choice may not depend on it, and llama.cpp and DeepSeek compute it so."""


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """y[b] = Σ_j s_bj · down_e(silu(gate_e x_b) · up_e x_b) over the `chosen` experts e that a router has for row b.

    The router W[count, hidden] is float32, its shares s_b the softmax over the chosen logits. An expert is two matrices
    [width, hidden] and one [hidden, width] in `weight` format. `distinct` experts are read, at least `chosen` and at
    most count and batch · chosen; 0 fills in what uniform routing has on average. act=int8 quantises what an expert's matrices
    are multiplied by, not what the router is. FLOPs 2·B·k·3·w·h + 2·B·E·h. Bytes: the experts read, the router, x and y.
    """

    hidden: int
    width: int
    count: int = 128
    chosen: int = 8
    batch: int = 1
    weight: str = "bf16"
    act: str = "float"
    distinct: int = 0
    kind: ClassVar[str] = "experts"

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "width", "count", "chosen", "batch")
        check_weight_and_act(self)
        if self.chosen > self.count:
            raise SpecError(f"experts: chosen={self.chosen} must be at most count={self.count}")
        group = FORMATS[self.weight].group
        for name in ("hidden", "width"):
            if group and getattr(self, name) % group:
                value = getattr(self, name)
                raise SpecError(
                    f"experts: {name}={value} must be a multiple of {group} for weight={self.weight}"
                )
        self._check_distinct()

    def _check_distinct(self) -> None:
        if self.distinct != 0:
            check_positive(self, "distinct")
        else:
            object.__setattr__(self, "distinct", uniform_distinct(self.count, self.chosen, self.batch))
        most = min(self.count, self.batch * self.chosen)
        if not self.chosen <= self.distinct <= most:
            raise SpecError(
                f"experts: distinct={self.distinct} must be from chosen={self.chosen} to {most}, "
                "the fewer of count and batch times chosen (0: as many as uniform routing takes on average)"
            )
        if self.codes > self.hidden:
            raise SpecError(
                f"experts: hidden={self.hidden} must be at least {self.codes}: "
                "each different route of the batch takes a column"
            )

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return spec_of(self)

    @property
    def codes(self) -> int:
        """Columns of the hidden state that say which route a row takes."""
        return codes_of(self.batch, self.distinct, self.chosen)

    @property
    def flops(self) -> int:
        """Three products for each row and expert that it takes, and the router's."""
        mlps = 2 * self.batch * self.chosen * 3 * self.width * self.hidden
        return mlps + 2 * self.batch * self.count * self.hidden

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert, scales included."""
        return sum(self._expert())

    def _expert(self) -> tuple[int, int]:
        """Values and scales of an expert's three matrices."""
        found = FORMATS[self.weight]
        (gate, gate_scales), (down, down_scales) = (
            found.matrix_bytes(self.width, self.hidden),
            found.matrix_bytes(self.hidden, self.width),
        )
        return 2 * gate + down, 2 * gate_scales + down_scales

    @property
    def router_bytes(self) -> int:
        """Bytes of the router."""
        return self.count * self.hidden * ROUTER_BYTES

    @property
    def traffic(self) -> Traffic:
        """The experts that are read with their scales, the router, x and y."""
        values, scales = self._expert()
        rows = self.batch * self.hidden * ACTIVATION_BYTES
        return Traffic(
            weights_bytes=self.distinct * values + self.router_bytes,
            scales_bytes=self.distinct * scales,
            activations_read_bytes=rows,
            activations_written_bytes=rows,
        )

    @property
    def footprint_bytes(self) -> int:
        """Memory that one input set reads and writes; the experts that it does not take lie beside it (`held_bytes`)."""
        return self.traffic.total_bytes

    @property
    def slots_a_set(self) -> int:
        """Input sets that share `count` experts: no two of them take the same one."""
        return self.count // self.distinct

    def held_bytes(self, slots: int) -> int:
        """Memory of that many input sets: all experts of each set of weights, those included that no row takes."""
        sets = -(-slots // self.slots_a_set)
        apart = self.footprint_bytes - self.distinct * self.expert_bytes
        return sets * self.count * self.expert_bytes + slots * apart
