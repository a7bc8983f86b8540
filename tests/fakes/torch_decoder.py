"""A small decoder in PyTorch, exported to ONNX by torch.onnx with its cache as inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

HIDDEN, HEADS, KV_HEADS, WIDTH, MLP, VOCAB = 32, 2, 1, 16, 64, 50


class Decoder(nn.Module):
    """One layer: RMSNorm, rotary attention over a cache that is joined with the new rows, a gated MLP, an LM head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(VOCAB, HIDDEN), nn.Linear(HIDDEN, VOCAB, bias=False)
        self.norms = nn.ModuleList(nn.RMSNorm(HIDDEN, eps=1e-5) for _ in range(3))
        self.q, self.o = (
            nn.Linear(HIDDEN, HEADS * WIDTH, bias=True),
            nn.Linear(HEADS * WIDTH, HIDDEN, bias=False),
        )
        self.k, self.v = (nn.Linear(HIDDEN, KV_HEADS * WIDTH, bias=False) for _ in "kv")
        self.gate, self.up = (nn.Linear(HIDDEN, MLP, bias=False) for _ in "gu")
        self.down = nn.Linear(MLP, HIDDEN, bias=False)

    def _turned(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        steps = 10000 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
        angles = positions[:, None, :, None] * steps
        first, second = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def forward(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, past_key: Any, past_value: Any
    ) -> Any:
        """Logits [batch, 1, vocab], and the cache with the new token."""
        x = self.table(input_ids)
        batch, tokens = input_ids.shape
        normed = self.norms[0](x)
        heads = [
            linear(normed).view(batch, tokens, -1, WIDTH).transpose(1, 2)
            for linear in (self.q, self.k, self.v)
        ]
        q, k = (self._turned(part, position_ids) for part in heads[:2])
        keys, values = torch.cat([past_key, k], 2), torch.cat([past_value, heads[2]], 2)
        mask = attention_mask[:, None, None, :].bool()
        y = nn.functional.scaled_dot_product_attention(q, keys, values, mask, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, tokens, -1))
        normed = self.norms[1](x)
        x = x + self.down(nn.functional.silu(self.gate(normed)) * self.up(normed))
        return self.head(self.norms[2](x)), keys, values


def exported(path: Path, opset: int = 18) -> Path:
    """The file, its weights inside."""
    torch.manual_seed(1)
    model = Decoder().eval()
    for norm in model.norms:  # equal tensors would be stored once
        nn.init.normal_(norm.weight, 1.0, 0.1)
    batch, past = torch.export.Dim("batch"), torch.export.Dim("past_length")
    cache = torch.zeros(2, KV_HEADS, 5, WIDTH)
    ids, mask = torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 6, dtype=torch.int64)
    names = [
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values.0.key",
        "past_key_values.0.value",
    ]
    program = torch.onnx.export(
        model,
        (ids, mask, ids.clone(), cache, cache.clone()),
        dynamo=True,
        opset_version=opset,
        verbose=False,
        input_names=names,
        output_names=["logits", "present.0.key", "present.0.value"],
        dynamic_shapes=(
            {0: batch},
            {0: batch, 1: past + 1},
            {0: batch},
            {0: batch, 2: past},
            {0: batch, 2: past},
        ),
    )
    program.save(path)
    return path
