"""A decoder whose weights live in host memory: each layer streams over the link while the one before it runs.

>>> offloaded = OffloadedDecoder(decoder, "npu:0")
>>> logits = offloaded(x)              # x [rows, hidden] on the device -> float32 [batch, vocab]

Two buffers on the device take turns: a layer is copied into one while the other is used. The link is then
the ceiling of a step, since every launch moves all layers and the head over it. Caches stay on the device.
Imported only where torch is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from membound.backends.pytorch.device import new_event, new_stream
from membound.backends.pytorch.model import Decoder

ALIGNMENT = 256
"""The alignment of tensors in a flat buffer, in bytes: that of accelerators' allocators."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a module's tensor in a flat buffer."""

    module: str
    name: str
    offset: int
    shape: torch.Size
    dtype: torch.dtype


def lay_out(module: nn.Module) -> tuple[list[Place], int]:
    """A place for each buffer of a module, and the bytes of all."""
    places, offset = [], 0
    for full_name, tensor in module.named_buffers():
        owner, _, name = full_name.rpartition(".")
        places.append(Place(owner, name, offset, tensor.shape, tensor.dtype))
        offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return places, offset


def flatten(module: nn.Module, pinned: bool) -> Tensor:
    """The buffers of a module in one host tensor of bytes, page-locked if `pinned`."""
    places, size = lay_out(module)
    flat = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    for place, tensor in zip(places, module.buffers(), strict=True):
        view(flat, place).copy_(tensor)
    return flat


def view(flat: Tensor, place: Place) -> Tensor:
    """A tensor of a module as a view of `flat`."""
    size = place.shape.numel() * place.dtype.itemsize
    return flat[place.offset : place.offset + size].view(place.dtype).view(place.shape)


def bind(module: nn.Module, flat: Tensor) -> nn.Module:
    """A module of the same shape whose buffers are views of `flat`, so that what is copied there becomes its weights."""
    places, _ = lay_out(module)
    bound = copy.deepcopy(module)
    for place in places:
        setattr(bound.get_submodule(place.module), place.name, view(flat, place))
    return bound


class OffloadedDecoder:
    """All layers and the head in host memory, and two buffers on the device; the attentions stay on the device."""

    def __init__(self, decoder: Decoder, device: str, pinned: bool = True) -> None:
        parts: Sequence[nn.Module] = [*decoder.layers, decoder.head]
        self.stored_bytes = decoder.stored_bytes
        self._attentions = decoder.attentions
        self._host = [flatten(part, pinned) for part in parts]
        for part in parts:
            part.to("meta")  # only its shapes are needed, not its memory
        size = max(flat.nbytes for flat in self._host)
        self._places = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self._layers = [bind(decoder.layers[0], place) for place in self._places]
        self._head = bind(decoder.head, self._places[len(decoder.layers) % 2])
        self._stream = new_stream(device)
        self._arrived = [new_event(device) for _ in range(2)]
        self._used = [new_event(device) for _ in range(2)]
        self._device = device

    def __call__(self, x: Tensor) -> Tensor:
        """X [rows, hidden] -> logits [batch, vocab]; the next part is being copied while one runs."""
        last = len(self._attentions)
        stream = self._current()
        self._fetch(0)
        for index in range(last + 1):
            if index < last:
                self._fetch(index + 1)
            side = index % 2
            stream.wait_event(self._arrived[side])
            x = self._layers[side](x, self._attentions[index]) if index < last else self._head(x)
            self._used[side].record(stream)
        return x

    def _fetch(self, index: int) -> None:
        """Start copying a part to its buffer, once the part that was there has been used."""
        side = index % 2
        self._stream.wait_event(self._used[side])
        host = self._host[index]
        with self._stream:
            self._places[side][: len(host)].copy_(host, non_blocking=True)
        self._arrived[side].record(self._stream)

    def _current(self) -> torch.Stream:
        return torch.accelerator.current_stream(self._device)
