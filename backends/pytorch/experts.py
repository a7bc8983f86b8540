"""Routed experts in torch: one grouped product over all experts, or a loop over those that were chosen.

>>> experts = ExpertLayer(inputs, weight_set=0, loop=False, compiled=False, background=background)
>>> y = experts.run(x, router)         # x [rows, hidden] and router [count, hidden] float32 -> y [rows, hidden] float32
>>> experts.form, experts.ids.shape
('grouped_mm', torch.Size([2, 8]))

`grouped_mm` is what Transformers runs experts with; it takes floats whose rows begin at multiples of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from membound.backends.background import Background
from membound.backends.pytorch.linear import (
    FLOATS,
    FloatLinear,
    FormatLinear,
    as_tensor,
    linear_unsupported,
    make_linear,
)
from membound.backends.pytorch.variants import Variants
from membound.kernels.inputs import ExpertInputs
from membound.kernels.work import RoutedExperts

GROUPED = {"f32": torch.float32, "bf16": torch.bfloat16}
"""Formats in which torch has grouped products on CPUs; in float16 it would multiply in a plain loop."""
ALIGNED_BYTES = 16
"""Rows of the matrices of `grouped_mm` begin at multiples of this."""

Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def takes_grouped(work: RoutedExperts) -> bool:
    """Whether torch's grouped product takes these experts."""
    if work.weight not in GROUPED:
        return False
    size = GROUPED[work.weight].itemsize
    return all(width * size % ALIGNED_BYTES == 0 for width in (work.hidden, work.width))


def experts_unsupported(work: RoutedExperts, variants: Variants, device: str) -> str | None:
    """Why torch does not run these experts on that device as that variant, or None."""
    if device != "cpu":
        return "routed experts are built from torch's operators for CPUs"
    if variants.form != "grouped":
        return f"the variant {variants.form} changes decode attention only"
    grouped = takes_grouped(work)
    if variants.loop and not grouped:
        return "a loop is what runs these experts without the variant loop, too"
    if variants.compiled and not grouped:
        return "torch.compile cannot trace a loop over the experts that were chosen"
    if variants.compiled and work.weight != "bf16":
        return "torch.compile takes grouped products in bfloat16 alone"
    return linear_unsupported(work.weight, work.act, (work.hidden, work.width), device)


class ExpertLayer:
    """A set of experts. `form`: how they run; `stored_bytes`: bytes of one expert; `ids` [rows, chosen]: the last choice."""

    def __init__(
        self, inputs: ExpertInputs, weight_set: int, loop: bool, compiled: bool, background: Background
    ) -> None:
        work = inputs.work
        grouped = takes_grouped(work) and not loop
        self.form = "grouped_mm" if grouped else "loop"
        self.ids: Tensor | None = None
        modules = _stacked(inputs, weight_set) if work.weight in FLOATS else None
        if grouped and modules is not None:
            gate_up, down = modules
            self._function = _grouped(gate_up, down, work)
            self.stored_bytes = (gate_up.nbytes + down.nbytes) // work.count
        elif modules is not None:
            experts: list[tuple[FormatLinear, FormatLinear]] = [
                (FloatLinear(gate_up, None), FloatLinear(down, None))
                for gate_up, down in zip(*modules, strict=True)
            ]
            self._function = _looped(experts, work)
            self.stored_bytes = sum(module.stored_bytes for module in experts[0])
        else:
            experts = _packed(inputs, weight_set, background)
            self._function = _looped(experts, work)
            self.stored_bytes = sum(module.stored_bytes for module in experts[0])
        if compiled:
            self._function = torch.compile(self._function, fullgraph=True, dynamic=False)

    def run(self, x: Tensor, router: Tensor) -> Tensor:
        """y [rows, hidden] float32 of x by that router, both float32."""
        y, self.ids = self._function(x, router)
        return y

    def settings(self) -> dict[str, Any]:
        """How they run, and how many different ones the last launch took."""
        return {
            "experts": self.form,
            "experts_read": 0 if self.ids is None else len(set(self.ids.flatten().tolist())),
        }


def _stacked(inputs: ExpertInputs, weight_set: int) -> tuple[Tensor, Tensor]:
    """Gate and up [count, 2 · width, hidden], down [count, hidden, width] of a float format, each in one piece of memory."""
    work = inputs.work
    kind = FLOATS[work.weight]
    gate_up = torch.empty(work.count, 2 * work.width, work.hidden, dtype=kind)
    down = torch.empty(work.count, work.hidden, work.width, dtype=kind)
    for number in range(work.count):
        gate, up, narrow = (as_tensor(w.values, work.weight) for w in inputs.expert(weight_set, number))
        gate_up[number, : work.width], gate_up[number, work.width :] = gate, up
        down[number] = narrow
    return gate_up, down


def _packed(
    inputs: ExpertInputs, weight_set: int, background: Background
) -> list[tuple[FormatLinear, FormatLinear]]:
    """A module for gate and up and one for down, of each expert, packed for as many rows as it gets at most."""
    work = inputs.work
    rows = -(-work.batch * work.chosen // work.distinct)
    made = []
    for number in range(work.count):
        gate, up, down = inputs.expert(weight_set, number)
        gate_up, narrow = (
            make_linear(weights, None, work.act, rows, "cpu", background) for weights in ([gate, up], [down])
        )
        made.append((gate_up, narrow))
    return made


def choose(x: Tensor, router: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """ids and shares [rows, chosen] by the router's logits: the largest, and the softmax over them alone."""
    kept, ids = functional.linear(x, router).topk(chosen, dim=-1)
    return ids, kept.softmax(-1)


def _grouped(gate_up: Tensor, down: Tensor, work: RoutedExperts) -> Run:
    """Rows in the order of their experts, and two grouped products over all of them."""
    numbers = torch.arange(work.count)
    wide, narrow = gate_up.transpose(-2, -1), down.transpose(-2, -1)

    def run(x: Tensor, router: Tensor) -> tuple[Tensor, Tensor]:
        ids, shares = choose(x, router, work.chosen)
        flat = ids.flatten()
        order = flat.argsort(stable=True)
        rows = order // work.chosen
        ends = (flat[:, None] == numbers).sum(0).cumsum(0).to(torch.int32)
        gate, up = functional.grouped_mm(x[rows].to(wide.dtype), wide, offs=ends).chunk(2, -1)
        y = functional.grouped_mm(functional.silu(gate) * up, narrow, offs=ends)
        weighted = y.float() * shares.flatten()[order, None]
        return torch.zeros_like(x).index_add_(0, rows, weighted), ids

    return run


def _looped(experts: list[tuple[FormatLinear, FormatLinear]], work: RoutedExperts) -> Run:
    """One expert after the other, each with the rows that chose it."""

    def run(x: Tensor, router: Tensor) -> tuple[Tensor, Tensor]:
        ids, shares = choose(x, router, work.chosen)
        y = torch.zeros_like(x)
        for number in sorted(set(ids.flatten().tolist())):
            rows, places = torch.where(ids == number)
            gate_up, down = experts[number]
            gate, up = gate_up(x[rows].to(gate_up.activation)).chunk(2, -1)
            hidden = (functional.silu(gate) * up).to(down.activation)
            y.index_add_(0, rows, down(hidden).float() * shares[rows, places, None])
        return y, ids

    return run
