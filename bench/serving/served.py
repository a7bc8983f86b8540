"""The model that a server has, as this package knows it, by which its answers are checked and its bytes counted.

>>> served = parse_served("step:model=tiny,weight=f32")
>>> served.name, served.work.spec
('tiny', 'step:model=tiny,batch=1,context=1024,weight=f32,kv=f32,act=float,cache=prompt')
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from membound.bench.serving.schedule import LoadError
from membound.kernels.work import Step, parse

WEIGHTS_SEED = 1
"""Of random weights, as `membound export-model` writes them by default."""
SMALLEST_VOCAB = 16
EVERY = 8
"""One request of this many is kept, with its prompt, to be compared with the reference."""
DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True, slots=True)
class Served:
    """`work` is a step of one sequence, in the formats that weights and cache have."""

    work: Step
    seed: int = WEIGHTS_SEED

    @property
    def name(self) -> str:
        """What a server calls it."""
        return Path(self.work.model).resolve().name if self.work.shape.folder else self.work.model

    @property
    def vocab(self) -> int:
        """Tokens that it has."""
        return self.work.shape.vocab


def parse_served(text: str) -> Served:
    """A model's name, a folder or a step's spec; the cache has the format of the weights unless the spec says otherwise.

    Raises LoadError or SpecError.
    """
    spec = text if ":" in text.partition("=")[0] else f"step:model={text}{_format_of(Path(text))}"
    work = parse(spec)
    if not isinstance(work, Step):
        raise LoadError(
            f"{text}: a server's model is the name of one, a folder, or a step such as step:model=tiny,weight=f32"
        )
    if "kv=" not in spec:
        work = replace(work, kv=work.weight)
    if work.shape.vocab <= SMALLEST_VOCAB:
        raise LoadError(f"{text} has {work.shape.vocab} tokens: too few to draw prompts from")
    work = replace(work, batch=1, queries=1, cache="prompt")  # an engine holds only what it computed itself
    return Served(work)


def check_formats(served: Served, formats: tuple[str, ...]) -> None:
    """Raises LoadError unless weights and cache have one of the formats that an engine takes."""
    work = served.work
    if work.weight not in formats or work.kv != work.weight or work.act != "float":
        raise LoadError(
            f"{work.spec}: the engine takes weight={'|'.join(formats)}, with the same kv (or none given) and act=float"
        )


def _format_of(folder: Path) -> str:
    """The format that a folder's config.json names, as a part of a spec; '' where it names none, or is no folder."""
    with suppress(OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return f",weight={DTYPES[config.get('torch_dtype') or config.get('dtype')]}"
    return ""
