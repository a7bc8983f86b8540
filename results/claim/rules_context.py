"""The rule of experiment 13: a longer context costs its bytes, and nothing where it adds none. Text in experiments.toml."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from membound.results.claim.dose_table import Panel, panel_of
from membound.results.claim.experiments import Experiment
from membound.results.claim.finding import (
    INCONCLUSIVE,
    REFUTED,
    SUPPORTED,
    Figure,
    Ruling,
    TooLittle,
    estimated,
    percent,
    require,
)
from membound.results.claim.inference import SIGNIFICANCE, plateau
from membound.results.claim.observation import Observation


def context_dose(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """13: time over that at the shortest context follows bytes, however long the context is."""
    panel = panel_of(seen, lambda one: one.positive("context")).complete(experiment.processes)
    require(experiment, len(panel.processes), len(panel.doses))
    if np.isnan(panel.memory_s).any() or np.isnan(panel.compute_s).any():
        raise TooLittle("no ceiling of memory or of the arithmetic was measured")
    limits = experiment.thresholds
    below = panel.compute_s <= limits["below"] * panel.memory_s
    if not below[0]:
        raise TooLittle("the shortest context is not clear of the ridge")
    panel = panel.at(below)
    require(experiment, len(panel.processes), len(panel.doses))
    over = panel.ln_time - panel.ln_time[:, :1] - np.log(panel.moved_bytes / panel.moved_bytes[0])
    flat = plateau(over[:, 1:], limits["rise"])
    largest, contrast = flat.largest.map(lambda ratio: ratio - 1), _contrast(panel, seen)
    explained = float(panel.memory_s[0] / panel.mean_s[0])
    tokens, moved = panel.doses[-1] / panel.doses[0], panel.moved_bytes[-1] / panel.moved_bytes[0]
    figures = (
        estimated("largest rise of time over bytes", largest, "%"),
        Figure("rise of time over bytes if every token were read", contrast, unit="%"),
        Figure("bytes at the longest context, of those at the shortest", float(moved), unit="%"),
        Figure("bytes / bandwidth of the time at the shortest context", explained, unit="%"),
    )
    text = (
        f"over a context {tokens:.0f} times as long, with {moved:.2f} times the bytes, time rises over bytes by "
        f"{percent(largest)}, where reading every token would take {contrast:.0%}"
    )
    if flat.largest.above(1 + limits["rise"]):
        return Ruling(REFUTED, f"Context costs time that its bytes do not: {text}.", figures)
    if explained < limits["explained"]:
        why = f"memory explains only {explained:.0%} of the time at the shortest context"
        return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}, but {why}.", figures)
    if contrast < limits["contrast"]:
        return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}: too little to tell.", figures)
    if flat.p_equal < SIGNIFICANCE:
        return Ruling(SUPPORTED, f"Context costs its bytes: {text}.", figures)
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)


def _contrast(panel: Panel, seen: Sequence[Observation]) -> float:
    """How much further than bytes rise those of every token would, from the shortest context to the longest, as a share."""
    whole = {one.positive("context"): one.positive("whole_bytes") for one in seen}
    first, last = (whole[dose] for dose in (panel.doses[0], panel.doses[-1]))
    return float(last / first / (panel.moved_bytes[-1] / panel.moved_bytes[0]) - 1)
