"""The second half of a layer: MLPs, and experts of which a router chooses some for each token.

>>> experts = Experts(count=8, chosen=2, expert=Mlp(14336))
>>> round(experts.distinct(tokens=4), 2)
5.47

`parts` has layers of them. Formulas: docs/prediction.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from membound.kernels.mixers import Matrices


def size_of(matrices: Matrices) -> int:
    """Numbers of all of them."""
    return sum(prod(shape) for shape in matrices.values())


@dataclass(frozen=True, slots=True)
class Mlp:
    """Two products, or three where one gates another.

    `activation`: silu, gelu, gelu_tanh (its approximation by tanh), relu2 (squared), or gpt-oss' clamped. A width of 0: there is none.
    """

    width: int
    gated: bool = True
    bias: bool = False
    activation: str = "silu"

    def matrices(self, hidden: int) -> Matrices:
        """The products."""
        if not self.width:
            return {}
        gate = {"gate": (self.width, hidden)} if self.gated else {}
        return gate | {"up": (self.width, hidden), "down": (hidden, self.width)}

    def vectors(self, hidden: int) -> int:
        """Numbers of biases."""
        return sum(self.vector_widths(hidden).values())

    def vector_widths(self, hidden: int) -> Mapping[str, int]:
        """The same by name: gate_bias and so on."""
        widths = {name: n for name, (n, _) in self.matrices(hidden).items()}
        return {f"{name}_bias": n for name, n in widths.items()} if self.bias else {}


@dataclass(frozen=True, slots=True)
class Router:
    """How experts are chosen and weighted: the largest `score` (softmax or sigmoid) of x times the router's matrix.

    `bias` is added before, `correction` for the choice alone (DeepSeek-V3). `groups`: only the experts of the best
    `groups_chosen` of `groups` groups are looked at, by the two best of each (`group_best`=2) or the best one. `normalised`: the
    weights of those chosen add up to 1; `factor` times them then. `on_input`: they multiply x, not what comes out (Llama 4). `gains`: it
    meets what goes into the half under a norm of its own, over the root of its width, and each weight is multiplied by its expert's (Gemma 4).
    """

    score: str = "softmax"
    normalised: bool = True
    bias: bool = False
    correction: bool = False
    groups: int = 1
    groups_chosen: int = 1
    group_best: int = 2
    factor: float = 1.0
    on_input: bool = False
    gains: bool = False

    @property
    def vectors(self) -> int:
        """Numbers an expert besides the matrix."""
        return self.bias + self.correction + self.gains


PLAIN_ROUTER = Router()


@dataclass(frozen=True, slots=True)
class Experts:
    """`count` MLPs of which a router chooses `chosen` for each token, besides one that every token takes.

    `latent`: width of what goes into the chosen ones and comes out, with a product before and one behind; 0: the model's (Nemotron 3 Super).
    """

    count: int
    chosen: int
    expert: Mlp
    shared: Mlp | None = None
    shared_gate: bool = False
    router: Router = PLAIN_ROUTER
    latent: int = 0

    def matrices(self, hidden: int) -> Matrices:
        """Those of one expert."""
        return self.expert.matrices(self.latent or hidden)

    def distinct(self, tokens: float) -> float:
        """Experts that are read for `tokens` tokens where each is as likely as any other: E(1 − (1 − k/E)^T)."""
        missed = (1 - self.chosen / self.count) ** float(tokens)  # inf: of all that there are
        return self.count * (1 - float(missed))

    def always(self, hidden: int) -> int:
        """Numbers of the matrices that every token takes: the router, the shared MLP, and what goes down to `latent` and up again."""
        shared = size_of(self.shared.matrices(hidden)) if self.shared else 0
        return self.count * hidden + shared + 2 * self.latent * hidden

    def vectors(self, hidden: int) -> int:
        """Numbers of biases, of all experts, and of the shared MLP's gate."""
        shared = self.shared.vectors(hidden) if self.shared else 0
        experts = self.count * (self.expert.vectors(self.latent or hidden) + self.router.vectors)
        return experts + shared + (self.shared_gate + self.router.gains) * hidden

    def vector_widths(self, hidden: int) -> Mapping[str, int]:
        """Those that every token meets by name: router_bias, correction, router_norm, expert_gain, shared_gate, shared.up_bias and so on."""
        there = {"router_bias": self.router.bias, "correction": self.router.correction}
        own = {name: self.count for name, so in there.items() if so}
        gate = {"shared_gate": hidden} if self.shared_gate else {}
        shared = self.shared.vector_widths(hidden) if self.shared else {}
        gains = {"router_norm": hidden, "expert_gain": self.count} if self.router.gains else {}
        return own | gains | gate | {f"shared.{name}": width for name, width in shared.items()}
