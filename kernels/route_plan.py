"""The experts that each row of a step or a prompt takes, layer by layer, and the columns in which a row says so.

>>> from membound.kernels.published import SHAPES
>>> plan = RoutePlan(SHAPES["qwen3-30b-a3b"], rows=8, distinct=52, seed=1)
>>> plan.codes, plan.routes(0).shape
(8, (8, 8))

As in `routing`, codes stand in the last columns of the hidden state, which no matrix of the model writes: what attention and
experts give is zero there, exactly and in every format, so that a code passes through all layers. Each layer's router takes the
experts that are not planned for a code far below all others: shares of those that are planned remain what they would be, none
is near 1 for a sigmoid, and rounding logits to bfloat16 costs no precision, as it would if planned ones were raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from membound.kernels.layer_tensors import routed_part
from membound.kernels.parts import Decoder, Experts, Router
from membound.kernels.routing import F32, I64, codes_of, planned_routes, uniform_distinct

LOWERED = 8.0
"""The router's weight in a code's column, negated, for experts that are not planned, in the first layer: with a code of 4 as large
as the hidden state's other numbers their logits are 32 lower, and those of the others scatter by `SCATTER`."""
SCATTER = np.float32(0.5)
"""The deviation of a router's other logits. Sigmoids of the least of some hundred remain above 0.1, where corrections are 0.01."""


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """Which of a decoder's experts `rows` rows take, `distinct` different ones in each layer."""

    decoder: Decoder
    rows: int
    distinct: int
    seed: int

    @property
    def experts(self) -> Experts:
        """The routed part, which is alike in all layers that have one."""
        found = routed_part(self.decoder)
        if found is None:
            raise AssertionError(f"{self.decoder.name} is dense")
        return found

    @property
    def codes(self) -> int:
        """Columns that carry codes: row b, or a token t of a vocabulary, has code b or t mod this many."""
        return codes_of(self.rows, self.distinct, self.experts.chosen)

    def routes(self, index: int) -> I64:
        """The experts of each row in layer `index`, [rows, chosen]."""
        return planned_routes(self._order(index)[: self.distinct], self.rows, self.experts.chosen)

    def router(self, index: int) -> F32:
        """The router of layer `index`, [count, hidden]: random but for the columns of the codes."""
        experts, hidden = self.experts, self.decoder.hidden
        rng = np.random.default_rng((self.seed, index, 1 << 24))
        router = rng.standard_normal((experts.count, hidden), np.float32) * (
            SCATTER / np.float32(sqrt(hidden))
        )
        lower_others(router, self.routes(index)[: self.codes], self._gain(index))
        return router * np.float32(sqrt(hidden)) if experts.router.gains else router  # which divides by it

    def _gain(self, index: int) -> float:
        """What lowers an expert's logit. Each layer adds about as much to the hidden state as it was, the code does not grow."""
        return float(round(LOWERED * sqrt(1 + index * (1 + self.experts.router.factor**2))))

    def _order(self, index: int) -> I64:
        """All experts shuffled, those of a group next to each other."""
        rng = np.random.default_rng((self.seed, index, 1 << 23))
        groups = self.experts.router.groups
        size = self.experts.count // groups
        order = [group * size + rng.permutation(size) for group in rng.permutation(groups)]
        return np.concatenate(order)


def lower_others(router: F32, routes: I64, gain: float) -> None:
    """Write routes [codes, chosen] into the last columns of router [count, hidden], in place."""
    hidden, codes = router.shape[1], len(routes)
    router[:, hidden - codes :] = -np.float32(gain)
    router[routes, hidden - codes + np.arange(codes)[:, None]] = 0


def default_distinct(experts: Experts, rows: int) -> int:
    """What uniform routing takes on average, or the next fewer that the router's groups allow."""
    most = uniform_distinct(experts.count, experts.chosen, rows)
    return next(u for u in range(most, experts.chosen - 1, -1) if fits_groups(experts, rows, u))


def fits_groups(experts: Experts, rows: int, distinct: int) -> bool:
    """Whether the plan of every row stays within as many groups as the router looks at."""
    router: Router = experts.router
    size = experts.count // router.groups
    places = planned_routes(np.arange(distinct), codes_of(rows, distinct, experts.chosen), experts.chosen)
    return all(len(set(row)) <= router.groups_chosen for row in (places // size).tolist())


def with_codes(tokens: npt.NDArray[np.int64], codes: int, vocab: int) -> npt.NDArray[np.int64]:
    """Tokens [batch, n], of which number i, counted over all, becomes the next below or above with code i mod `codes`."""
    wanted = np.arange(tokens.size).reshape(tokens.shape) % codes
    moved = tokens - tokens % codes + wanted
    return np.where(moved < vocab, moved, moved - codes)
