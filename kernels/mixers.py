"""What mixes tokens besides plain attention: latent rows, an index that selects them, and states that do not grow.

>>> delta = GatedDelta(key_heads=16, value_heads=32, key_dim=128, value_dim=128)
>>> delta.state_numbers, delta.token_numbers
(524288, 0)

`parts` has layers of them. A state holds what a sequence has said in as many numbers at any length: a step reads all of it and writes it
anew. Sources: DeepSeek-V2 (arXiv 2405.04434), DeepSeek-V3.2 (its indexer), gated DeltaNet (arXiv 2412.06464), Mamba-2 (arXiv 2405.21060).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from membound.kernels.rope import Rope

ROPE_OF_NEIGHBOURS = Rope(neighbours=True)
STATE_BYTES = 4
"""A number of a state: float32 in published configurations (mamba_ssm_dtype, mamba_ssm_cache_dtype), since errors add up in it."""

Matrices = Mapping[str, tuple[int, int]]
"""Matrices by name as (n, k): n outputs of k inputs."""


@dataclass(frozen=True, slots=True)
class Indexer:
    """Selects the `chosen` tokens that attention sees, by one cached key of `head_dim` a token and `heads` small queries.

    Scores: the sum over heads of a weight, which comes from the hidden state, times relu(query · key). `neighbours`: which columns
    RoPE turns together, as in `Rope` (GLM-5's are neighbours, DeepSeek's are not). `shared`: the tokens are those of the last layer
    before that selects some, and nothing is computed or kept here (GLM-5.2).
    """

    heads: int
    head_dim: int
    chosen: int
    neighbours: bool = False
    shared: bool = False

    def matrices(self, hidden: int, q_rank: int) -> Matrices:
        """Queries from the rank of attention's own, keys and weights from the hidden state."""
        if self.shared:
            return {}
        return {
            "index_q": (self.heads * self.head_dim, q_rank),
            "index_k": (self.head_dim, hidden),
            "index_weights": (self.heads, hidden),
        }

    @property
    def vector_widths(self) -> Mapping[str, int]:
        """The LayerNorm of keys."""
        if self.shared:
            return {}
        return {"index_k_norm": self.head_dim, "index_k_norm_bias": self.head_dim}

    @property
    def token_numbers(self) -> int:
        """Cached numbers a token."""
        return 0 if self.shared else self.head_dim

    @property
    def pair_flops(self) -> int:
        """FLOPs for a query token and a token whose key it meets: products, and their weighted sum."""
        return 0 if self.shared else 2 * self.heads * (self.head_dim + 1)


@dataclass(frozen=True, slots=True)
class Latent:
    """DeepSeek's latent attention: one cached row of `kv_rank + rope_dim` numbers a token, for all heads (arXiv 2405.04434).

    q_rank: 0 where queries come straight from the hidden state. `biases`: of the two products that go down and of o. `scale` of
    scores; 0: 1/√(nope_dim + rope_dim). `index`: what selects the rows that are read; None: all are.
    """

    q_heads: int
    q_rank: int
    kv_rank: int = 512
    nope_dim: int = 128
    rope_dim: int = 64
    value_dim: int = 128
    biases: bool = False
    rope: Rope = ROPE_OF_NEIGHBOURS
    scale: float = 0.0
    index: Indexer | None = None

    def matrices(self, hidden: int) -> Matrices:
        """The products; those that read the cache are as large absorbed as they are stored."""
        q = self.q_heads * (self.nope_dim + self.rope_dim)
        queries = (
            {"q_down": (self.q_rank, hidden), "q_up": (q, self.q_rank)} if self.q_rank else {"q": (q, hidden)}
        )
        index = self.index.matrices(hidden, self.q_rank) if self.index else {}
        return {
            **queries,
            "kv_down": (self.kv_rank + self.rope_dim, hidden),
            "kv_up": (self.q_heads * (self.nope_dim + self.value_dim), self.kv_rank),
            "o": (hidden, self.q_heads * self.value_dim),
            **index,
        }

    def vectors(self, hidden: int) -> int:
        """Numbers of norms' gains and biases."""
        return sum(self.vector_widths(hidden).values())

    def vector_widths(self, hidden: int) -> Mapping[str, int]:
        """The same by name: gains of q_norm and kv_norm, the index's norm, biases of the products that go down and of o."""
        ranks = {"q_norm": self.q_rank} if self.q_rank else {}
        gains = {**ranks, "kv_norm": self.kv_rank, **(self.index.vector_widths if self.index else {})}
        if not self.biases:
            return gains
        down = {"q_down_bias": self.q_rank} if self.q_rank else {}
        return gains | down | {"kv_down_bias": self.kv_rank + self.rope_dim, "o_bias": hidden}

    @property
    def token_numbers(self) -> int:
        """Cached numbers a token, without the index's key."""
        return self.kv_rank + self.rope_dim

    @property
    def pair_flops(self) -> int:
        """FLOPs for a query token and a token that it sees."""
        return 2 * self.q_heads * (2 * self.kv_rank + self.rope_dim)

    def seen(self, position: int) -> int:
        """Tokens before it whose rows are read: all of them, or with itself those that are selected."""
        return position if self.index is None else min(position, self.index.chosen - 1)

    def pairs(self, tokens: int) -> int:
        """Pairs of a token and itself or an earlier one that it sees."""
        whole = tokens if self.index is None else min(tokens, self.index.chosen)
        return triangle(whole) + (tokens - whole) * whole


@dataclass(frozen=True, slots=True)
class GatedDelta:
    """The gated delta rule of Qwen3-Next and Qwen3.5: a matrix [key_dim, value_dim] a value head, decayed and corrected by each token.

    A key head serves value_heads / key_heads value heads. Queries, keys and values go through a causal convolution over `kernel` tokens.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int = 4
    rope: ClassVar[None] = None
    token_numbers: ClassVar[int] = 0
    pair_flops: ClassVar[int] = 0

    @property
    def channels(self) -> int:
        """Columns that the convolution goes over."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def state_numbers(self) -> int:
        """Numbers of all heads' matrices."""
        return self.value_heads * self.key_dim * self.value_dim

    @property
    def tail_numbers(self) -> int:
        """Numbers of the tokens before that the convolution goes over."""
        return (self.kernel - 1) * self.channels

    @property
    def token_flops(self) -> int:
        """FLOPs of the convolution, and for each number of the state of its decay, what it recalls, its correction and the answer."""
        return 2 * self.kernel * self.channels + 7 * self.state_numbers

    def matrices(self, hidden: int) -> Matrices:
        """Queries, keys, values, their gate z, how much is corrected (b) and kept (a), and the output."""
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        into = {"q": keys, "k": keys, "v": values, "z": values, "b": self.value_heads, "a": self.value_heads}
        return {name: (n, hidden) for name, n in into.items()} | {"o": (hidden, values)}

    def vectors(self, hidden: int) -> int:
        """Numbers of the convolution, decays and the norm."""
        return sum(self.vector_widths(hidden).values())

    def vector_widths(self, hidden: int) -> Mapping[str, int]:
        """The same by name; `conv` has the weights of a column next to each other, the newest token's last."""
        decays = {"log_decay": self.value_heads, "dt_bias": self.value_heads}
        return {"conv": self.kernel * self.channels} | decays | {"state_norm": self.value_dim}

    def seen(self, position: int) -> int:
        """No cached token: they are in the state."""
        return 0

    def pairs(self, tokens: int) -> int:
        """No pairs of tokens."""
        return 0


@dataclass(frozen=True, slots=True)
class Mamba2:
    """The state space of Mamba-2: a matrix [head_dim, state_dim] a head, decayed and added to by each token (arXiv 2405.21060).

    Heads of a group share what writes into the state (B) and what reads it (C). `conv_bias`, `bias`: of the convolution over `kernel`
    tokens, and of the two products. `least_step`: time steps are no shorter.
    """

    heads: int
    head_dim: int
    state_dim: int
    groups: int = 1
    kernel: int = 4
    conv_bias: bool = True
    bias: bool = False
    least_step: float = 0.0
    rope: ClassVar[None] = None
    token_numbers: ClassVar[int] = 0
    pair_flops: ClassVar[int] = 0

    @property
    def width(self) -> int:
        """Columns of all heads."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Columns that the convolution goes over: x, B and C."""
        return self.width + 2 * self.groups * self.state_dim

    @property
    def state_numbers(self) -> int:
        """Numbers of all heads' matrices."""
        return self.width * self.state_dim

    @property
    def tail_numbers(self) -> int:
        """Numbers of the tokens before that the convolution goes over."""
        return (self.kernel - 1) * self.channels

    @property
    def token_flops(self) -> int:
        """FLOPs of the convolution, and for each number of the state of its decay, what is added and the answer."""
        return 2 * self.kernel * self.channels + 5 * self.state_numbers

    def matrices(self, hidden: int) -> Matrices:
        """The gate z, x, B, C, the time steps dt, and the output."""
        shared = self.groups * self.state_dim
        into = {"z": self.width, "x": self.width, "b": shared, "c": shared, "dt": self.heads}
        return {name: (n, hidden) for name, n in into.items()} | {"o": (hidden, self.width)}

    def vectors(self, hidden: int) -> int:
        """Numbers of the convolution, decays, skips, the norm and biases."""
        return sum(self.vector_widths(hidden).values())

    def vector_widths(self, hidden: int) -> Mapping[str, int]:
        """The same by name; `conv` as in `GatedDelta`, `skip` times x goes straight to the output."""
        widths = {"conv": self.kernel * self.channels}
        widths |= {"conv_bias": self.channels} if self.conv_bias else {}
        widths |= {
            "log_decay": self.heads,
            "dt_bias": self.heads,
            "skip": self.heads,
            "state_norm": self.width,
        }
        into = self.width + self.channels + self.heads
        return widths | ({"into_bias": into, "o_bias": hidden} if self.bias else {})

    def seen(self, position: int) -> int:
        """No cached token: they are in the state."""
        return 0

    def pairs(self, tokens: int) -> int:
        """No pairs of tokens."""
        return 0


Recurrent = GatedDelta | Mamba2
"""Mixers with a state that does not grow."""


def state_bytes(mixer: Recurrent) -> tuple[int, int]:
    """Bytes that a step reads and that it writes for a sequence: the state both ways, of the convolution one token less each way."""
    read = STATE_BYTES * (mixer.state_numbers + mixer.tail_numbers)
    return read, STATE_BYTES * (mixer.state_numbers + mixer.channels)


def triangle(n: int) -> int:
    """Pairs of each of n tokens and itself or an earlier one."""
    return n * (n + 1) // 2
