"""A decoder as layers of parts: what its matrices, its cache and its attention hold, whichever family it is of.

>>> attention = Attention(q_heads=32, kv_heads=8, head_dim=128, window=4096)
>>> layer = Layer(attention, Experts(count=8, chosen=2, expert=Mlp(14336)))
>>> model = Decoder("mixtral-8x7b", hidden=4096, vocab=32000, layers=(layer,) * 32)
>>> round(model.stored_weights / 1e9, 1), round(model.token_weights / 1e9, 1)
(46.7, 12.7)

Equal layers are one object, and `Decoder.kinds` has one to three entries in every model that is known here. Nothing in
this module is run: it counts. Formulas: docs/prediction.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf, prod

Matrices = Mapping[str, tuple[int, int]]
"""Matrices by name as (n, k): n outputs of k inputs."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention over keys and values of `kv_heads`, each shared by `q_heads / kv_heads` query heads.

    A token sees `window` tokens, itself included, or those since the last multiple of `chunk`; 0: all. `biases`: which of q, k,
    v and o have one. `head_norm`: gains of the norms of queries and keys, ``head`` (one of `head_dim` for all heads), ``all`` (all
    heads together) or none. `sinks`: a learned logit a query head.
    """

    q_heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    chunk: int = 0
    biases: str = ""
    head_norm: str = ""
    sinks: bool = False

    def matrices(self, hidden: int) -> Matrices:
        """The four products."""
        q, kv = self.q_heads * self.head_dim, self.kv_heads * self.head_dim
        return {"q": (q, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, q)}

    def vectors(self, hidden: int) -> int:
        """Numbers of biases, norms' gains and sinks."""
        widths = {name: n for name, (n, _) in self.matrices(hidden).items()}
        gains = {"": 0, "head": 2 * self.head_dim, "all": widths["q"] + widths["k"]}[self.head_norm]
        return gains + sum(widths[name] for name in self.biases) + self.q_heads * self.sinks

    @property
    def token_numbers(self) -> int:
        """Cached numbers a token."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def pair_flops(self) -> int:
        """FLOPs for a query token and a token that it sees."""
        return 4 * self.q_heads * self.head_dim

    def seen(self, position: int) -> int:
        """Tokens before it that the token at `position` sees."""
        if self.chunk:
            return position % self.chunk
        return min(position, self.window - 1) if self.window else position

    def pairs(self, tokens: int) -> int:
        """Pairs of a token and one that it sees, itself among them, in a prompt of that many."""
        if self.chunk:
            whole, rest = divmod(tokens, self.chunk)
            return whole * _triangle(self.chunk) + _triangle(rest)
        full = min(tokens, self.window) if self.window else tokens
        return _triangle(full) + (tokens - full) * self.window


@dataclass(frozen=True, slots=True)
class Latent:
    """DeepSeek's latent attention: one cached row of `kv_rank + rope_dim` numbers a token, for all heads (arXiv 2405.04434).

    q_rank: 0 where queries come straight from the hidden state. `biases`: of the two products that go down and of o.
    """

    q_heads: int
    q_rank: int
    kv_rank: int = 512
    nope_dim: int = 128
    rope_dim: int = 64
    value_dim: int = 128
    biases: bool = False

    def matrices(self, hidden: int) -> Matrices:
        """The products; those that read the cache are as large absorbed as they are stored."""
        q = self.q_heads * (self.nope_dim + self.rope_dim)
        queries = (
            {"q_down": (self.q_rank, hidden), "q_up": (q, self.q_rank)} if self.q_rank else {"q": (q, hidden)}
        )
        return queries | {
            "kv_down": (self.kv_rank + self.rope_dim, hidden),
            "kv_up": (self.q_heads * (self.nope_dim + self.value_dim), self.kv_rank),
            "o": (hidden, self.q_heads * self.value_dim),
        }

    def vectors(self, hidden: int) -> int:
        """Numbers of norms' gains and biases."""
        biases = self.q_rank + self.kv_rank + self.rope_dim + hidden
        return self.q_rank + self.kv_rank + self.biases * biases

    @property
    def token_numbers(self) -> int:
        """Cached numbers a token."""
        return self.kv_rank + self.rope_dim

    @property
    def pair_flops(self) -> int:
        """FLOPs for a query token and a token that it sees."""
        return 2 * self.q_heads * (2 * self.kv_rank + self.rope_dim)

    def seen(self, position: int) -> int:
        """All tokens before it."""
        return position

    def pairs(self, tokens: int) -> int:
        """Pairs of a token and itself or an earlier one."""
        return _triangle(tokens)


@dataclass(frozen=True, slots=True)
class Mlp:
    """Two products, or three where one gates another."""

    width: int
    gated: bool = True
    bias: bool = False

    def matrices(self, hidden: int) -> Matrices:
        """The products."""
        gate = {"gate": (self.width, hidden)} if self.gated else {}
        return gate | {"up": (self.width, hidden), "down": (hidden, self.width)}

    def vectors(self, hidden: int) -> int:
        """Numbers of biases."""
        return self.bias * ((1 + self.gated) * self.width + hidden)


@dataclass(frozen=True, slots=True)
class Experts:
    """`count` MLPs of which a router chooses `chosen` for each token, besides one that every token takes.

    `router_vectors`: numbers an expert that the router has besides its matrix (a bias, a correction of the choice).
    """

    count: int
    chosen: int
    expert: Mlp
    shared: Mlp | None = None
    shared_gate: bool = False
    router_vectors: int = 0

    def distinct(self, tokens: float) -> float:
        """Experts that are read for `tokens` tokens where each is as likely as any other: E(1 − (1 − k/E)^T)."""
        missed = (1 - self.chosen / self.count) ** float(tokens)  # inf: of all that there are
        return self.count * (1 - float(missed))

    def always(self, hidden: int) -> int:
        """Numbers of the matrices that every token takes: the router and the shared MLP."""
        return self.count * hidden + (_size(self.shared.matrices(hidden)) if self.shared else 0)

    def vectors(self, hidden: int) -> int:
        """Numbers of biases, of all experts, and of the shared MLP's gate."""
        shared = self.shared.vectors(hidden) if self.shared else 0
        experts = self.count * (self.expert.vectors(hidden) + self.router_vectors)
        return experts + shared + self.shared_gate * hidden


@dataclass(frozen=True, slots=True)
class Layer:
    """Attention and an MLP or experts. `norms`: how many norms of the width of the model, each a gain."""

    mixer: Attention | Latent
    mlp: Mlp | Experts
    norms: int = 2

    def streamed(self, hidden: int, tokens: float) -> float:
        """Numbers of the matrices that a pass over `tokens` tokens reads; infinitely many read all experts."""
        mixer = _size(self.mixer.matrices(hidden))
        if isinstance(self.mlp, Mlp):
            return mixer + _size(self.mlp.matrices(hidden))
        expert = _size(self.mlp.expert.matrices(hidden))
        return mixer + self.mlp.always(hidden) + self.mlp.distinct(tokens) * expert


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model that decodes, by what its parts hold.

    `tied`: the LM head is the embedding table. `norm_vectors`: numbers a column that a norm has: 1 gain, 2 with a bias, 0 without
    either. `head_bias`: of the LM head. `folder`: where config.json lies; '' for a built-in one. `left_out`: what else it holds, in
    words.
    """

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied: bool = False
    norm_vectors: int = 1
    head_bias: bool = False
    folder: str = ""
    left_out: str = ""
    kinds: Mapping[Layer, int] = field(init=False, repr=False, compare=False)
    """The layers that differ, with how many there are of each."""

    def __post_init__(self) -> None:
        seen: dict[Layer, Layer] = {}
        object.__setattr__(self, "layers", tuple(seen.setdefault(layer, layer) for layer in self.layers))
        object.__setattr__(self, "kinds", Counter(self.layers))

    @property
    def experts(self) -> bool:
        """Some layers route tokens to experts."""
        return any(isinstance(layer.mlp, Experts) for layer in self.kinds)

    def streamed_weights(self, tokens: float) -> float:
        """Weights that one pass over `tokens` tokens reads: every matrix once, of experts those that are expected."""
        layers = sum(count * layer.streamed(self.hidden, tokens) for layer, count in self.kinds.items())
        return layers + self.vocab * self.hidden

    @property
    def token_weights(self) -> float:
        """Weights that one token is multiplied by."""
        return self.streamed_weights(1)

    @property
    def stored_weights(self) -> float:
        """Weights of all matrices, the embedding table among them."""
        return self.streamed_weights(inf) + (0 if self.tied else self.vocab * self.hidden)

    @property
    def parameters(self) -> int:
        """All numbers of the model: matrices, norms, biases."""
        each = sum(
            count * (layer.mixer.vectors(self.hidden) + layer.mlp.vectors(self.hidden))
            for layer, count in self.kinds.items()
        )
        norms = 1 + sum(count * layer.norms for layer, count in self.kinds.items())
        head = self.vocab * self.head_bias
        return round(self.stored_weights) + each + norms * self.hidden * self.norm_vectors + head

    def cached_numbers(self, context: int) -> int:
        """Numbers of the cache of a sequence that a step at `context` reads and writes: those that it sees, and its own."""
        return sum(
            count * layer.mixer.token_numbers * (layer.mixer.seen(context) + 1)
            for layer, count in self.kinds.items()
        )

    @property
    def token_numbers(self) -> int:
        """Numbers that a token adds to the cache."""
        return sum(count * layer.mixer.token_numbers for layer, count in self.kinds.items())

    def attention_flops(self, context: int) -> int:
        """FLOPs of attention for one token after `context` others."""
        return sum(
            count * layer.mixer.pair_flops * (layer.mixer.seen(context) + 1)
            for layer, count in self.kinds.items()
        )

    def prompt_attention_flops(self, tokens: int) -> int:
        """FLOPs of causal attention within a prompt."""
        return sum(
            count * layer.mixer.pair_flops * layer.mixer.pairs(tokens) for layer, count in self.kinds.items()
        )

    def with_layers(self, layers: int) -> Decoder:
        """The same model with its first layers; 0 keeps all."""
        return replace(self, layers=self.layers[:layers]) if layers else self


def _size(matrices: Matrices) -> int:
    return sum(prod(shape) for shape in matrices.values())


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
