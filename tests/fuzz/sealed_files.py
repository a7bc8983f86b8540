"""Changes within files that guard their content: what a length, a hash or a checksum covers is changed and covered anew.

>>> other_plan(Random(1), seeds.plans()[0])         # another plan, with a hash that fits it
"""

from __future__ import annotations

from random import Random

from mutation import as_bytes, damaged, mutated, other_json, parsed
from seeds import PARTS

from membound.bench.run.stored_plan import plan_hash
from membound.results.checksum import sealed, unsealed


def other_folder(rng: Random, content: bytes) -> bytes:
    """A model folder with another config.json, other headers of tensors, or another index."""
    parts = content.split(PARTS, 2)
    at = rng.choice((0, 0, 0, 1, 1, 2)) % len(parts)
    if at == 1:
        parts[1] = _other_tensors(rng, parts[1])
    else:
        parts[at] = other_json(rng, parts[at], (1, 1, 2))
    return PARTS.join(parts)


def _other_tensors(rng: Random, content: bytes) -> bytes:
    """8 bytes with the length of the header, the header as JSON, the data (github.com/safetensors/safetensors, README)."""
    what, length = rng.randrange(10), int.from_bytes(content[:8], "little")
    if what == 0:
        return content[: rng.randrange(len(content) + 1)]
    if what == 1:
        return damaged(rng, content)
    header = parsed(content[8 : 8 + length])
    for _ in range(rng.choice((1, 1, 2))):
        header = mutated(rng, header)
    text = as_bytes(header)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def other_plan(rng: Random, content: bytes) -> bytes:
    """A plan with other values, whose hash fits them mostly."""
    stored = parsed(content)
    if not isinstance(stored, dict) or not isinstance(stored.get("plan"), dict) or not rng.randrange(8):
        return other_json(rng, content)
    plan = stored["plan"]
    for _ in range(rng.choice((1, 1, 2))):
        plan = mutated(rng, plan)
    try:
        return as_bytes(stored | {"plan": plan, "hash": plan_hash(plan)})
    except (ValueError, OverflowError, RecursionError):
        return content


def other_journal(rng: Random, content: bytes) -> bytes:
    """A journal with other turns, each with a checksum that fits it."""
    lines = content.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        try:
            line = as_bytes(mutated(rng, parsed(unsealed(lines[at]))))
        except ValueError:
            line = damaged(rng, lines[at])
        lines[at] = sealed(line) if line.endswith(b"}") and rng.randrange(8) else line
    return b"\n".join(lines)
