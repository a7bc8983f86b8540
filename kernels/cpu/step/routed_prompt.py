"""A whole prompt of a model that goes beyond Llama in one compiled call, made of the layers of routed_step.py.

    run = routed_prompt_kernel("bf16", "float", 64, "bf16", METHOD, "", "", "bf16", "4+16", "bf16", "float", 1)
    run(x, arena, starts, gains, caches, buffers, sizes, routed, prompt)       # logits of each sequence's last token in buffers.logits

packed_routed_prompt.py makes the arguments. A chunk of M tokens of a sequence passes a layer as a step of M queries would; layer
after layer, so that each is streamed once a chunk. A sequence's last chunk is filled up with copies of its last token: they
choose no other experts than that one, no token sees them, and what comes of them is dropped.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.experts.routes import I64
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.cpu.step.latent import latent_half
from membound.kernels.cpu.step.prompt_index import index_at
from membound.kernels.cpu.step.routed_step import second
from membound.kernels.cpu.step.step import Sizes, attention_half, head
from membound.kernels.weights.formats import F32


class Prompt(NamedTuple):
    """tokens of each sequence; hidden states of all of them [batch · tokens · hidden]; experts that all have chosen last
    [layers, batch · tokens · chosen], and a chunk [layers, M · chosen]; no columns where there are none."""

    tokens: int
    hidden: F32
    ids: I64
    chunk_ids: I64


@cache
def routed_prompt_kernel(
    FMT: str, ACT: str, M: int, KV: str, METHOD: str, UP: str, INDEX: str, EXPERTS: str, BLOCKS: str,
    LAST_FMT: str, LAST_ACT: str, LAST: int,
) -> Any:  # fmt: skip
    """The compiled prompt in chunks of M tokens, LAST sequences, cached on disk; METHOD as `attend_new`, UP, INDEX, EXPERTS, BLOCKS, LAST_… as a step.

    run(x [batch·tokens·hidden], arena, starts, gains, caches, buffers, sizes, routed, prompt): angles of every place, room in
    caches for whole chunks. With latent attention its arguments come last, as in a step.
    """
    ROWS = choose(FMT, ACT, M).panel_rows

    if UP:

        @kernel()
        def run_latent(
            x: Any, arena: Any, starts: Any, gains: Any, caches: Any, b: Any, s: Any, routed: Any, prompt: Any, latent: Any
        ) -> None:  # fmt: skip
            for i in range(x.size):  # as in a step
                prompt.hidden[i] = x[i]
            own, buffers, up, shape, index = latent
            for layer in range(s.layers):
                at = starts[layer]
                for first in range(0, s.sequences * prompt.tokens, prompt.tokens):
                    for place in range(0, prompt.tokens, M):
                        here = _at_place(s, first // prompt.tokens, place)
                        _load(M, prompt, first, place, s.hidden, b.x)
                        selecting = index_at(M, index, layer, here.sequence, place)
                        latent_half(
                            FMT, ACT, M, KV, METHOD, UP, ROWS, INDEX,
                            layer, arena, at, gains, own, caches, b, buffers, up, shape, selecting, here,
                        )  # fmt: skip
                        second(FMT, ACT, M, EXPERTS, BLOCKS, ROWS, layer, arena, at, gains, b, here, routed)
                        _store(M, prompt, first, place, s.hidden, b.x, layer)
            load_last(s.sequences, prompt, s.hidden, b.x)
            head(LAST_FMT, LAST_ACT, LAST, arena, starts[s.layers, 0], gains, b, s)

        return run_latent

    @kernel()
    def run(
        x: Any, arena: Any, starts: Any, gains: Any, caches: Any, b: Any, s: Any, routed: Any, prompt: Any
    ) -> None:
        for i in range(x.size):
            prompt.hidden[i] = x[i]
        for layer in range(s.layers):
            at = starts[layer]
            for first in range(0, s.sequences * prompt.tokens, prompt.tokens):
                for place in range(0, prompt.tokens, M):
                    here = _at_place(s, first // prompt.tokens, place)
                    _load(M, prompt, first, place, s.hidden, b.x)
                    attention_half(FMT, ACT, M, KV, 0, METHOD, ROWS, layer, arena, at, gains, caches, b, here)
                    second(FMT, ACT, M, EXPERTS, BLOCKS, ROWS, layer, arena, at, gains, b, here, routed)
                    _store(M, prompt, first, place, s.hidden, b.x, layer)
        load_last(s.sequences, prompt, s.hidden, b.x)
        head(LAST_FMT, LAST_ACT, LAST, arena, starts[s.layers, 0], gains, b, s)

    return run


@linked
def _at_place(s: Any, sequence: Any, place: Any) -> Any:
    """The sizes of a step whose queries stand at `place` of a sequence."""
    return Sizes(
        s.hidden, s.layers, s.kv_heads, s.group, s.dim, s.keys_are_values, s.value_norm, s.intermediate, s.vocab, s.gated, s.smooth, s.centred, s.neighbours,
        s.queries, s.sequences, sequence, s.turns, place, place, s.capacity, s.seen, s.turned_norm,
        s.eps, s.softcap, s.residual, s.logit_gain, s.logit_softcap, s.threads,
    )  # fmt: skip


@linked
def _load(M: Any, prompt: Any, first: Any, place: Any, width: Any, x: Any) -> None:
    """x [M · width] = the tokens of a sequence from `place` on, the last of them again where it has no more."""
    for row in range(M):
        at = (first + min(place + row, prompt.tokens - 1)) * width
        for i in range(width):
            x[row * width + i] = prompt.hidden[at + i]


@linked
def _store(M: Any, prompt: Any, first: Any, place: Any, width: Any, x: Any, layer: Any) -> None:
    """What a layer makes of a chunk, and the experts that it chose, to their places."""
    count, chosen = min(M, prompt.tokens - place), prompt.chunk_ids.shape[1] // M
    at = first + place
    for i in range(count * width):
        prompt.hidden[at * width + i] = x[i]
    for i in range(count * chosen):
        prompt.ids[layer, at * chosen + i] = prompt.chunk_ids[layer, i]


@linked
def load_last(sequences: Any, prompt: Any, width: Any, x: Any) -> None:
    """x [sequences · width] = the last token of each sequence."""
    for row in range(sequences):
        at = ((row + 1) * prompt.tokens - 1) * width
        for i in range(width):
            x[row * width + i] = prompt.hidden[at + i]
