"""The rule of experiment 12: several new tokens in a step cost their bytes, until their FLOPs pass the ridge. Text in experiments.toml."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

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
from membound.results.claim.inference import SIGNIFICANCE, Estimate, Floats, Plateau, mean, plateau
from membound.results.claim.observation import Observation
from membound.results.claim.rules_dose import crossing


def query_dose(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """12: time over that of one query follows bytes below the ridge, and FLOPs beyond it."""
    panel = panel_of(seen, lambda one: one.positive("queries")).complete(experiment.processes)
    require(experiment, len(panel.processes), len(panel.doses))
    if panel.doses[0] != 1:
        raise TooLittle("one query was not measured")
    limits, meet = experiment.thresholds, crossing(panel)
    over = panel.ln_time - panel.ln_time[:, :1] - np.log(panel.moved_bytes / panel.moved_bytes[0])
    below = (panel.doses > 1) & (panel.compute_s <= limits["below"] * panel.memory_s)
    beyond = (panel.doses > 1) & (panel.memory_s <= limits["below"] * panel.compute_s)
    if not (below | beyond).any():
        raise TooLittle(f"no number of queries is clear of the ridge, which is at s = {meet:.1f}")
    flat = plateau(over[:, below], limits["rise"]) if below.any() else None
    bend = _rise(over[:, beyond]) if beyond.any() else None
    explained = float(panel.memory_s[0] / panel.mean_s[0])
    text = _told(panel, meet, flat, bend)
    figures = _figures(panel, meet, flat, bend, explained)
    if flat is not None and flat.largest.above(1 + limits["rise"]):
        return Ruling(REFUTED, f"More tokens cost more than their bytes below the ridge: {text}.", figures)
    if explained < limits["explained"]:
        why = f"memory explains only {explained:.0%} of the time of one query"
        return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}, but {why}.", figures)
    if bend is not None and bend.below(limits["bend"]):
        return Ruling(REFUTED, f"Time does not bend beyond the ridge: {text}.", figures)
    if (flat is None or flat.p_equal < SIGNIFICANCE) and (bend is None or bend.low >= limits["bend"]):
        return Ruling(
            SUPPORTED, f"More tokens cost their bytes, and FLOPs beyond the ridge: {text}.", figures
        )
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)


def _rise(over: Floats) -> Estimate:
    """What the largest dose takes over its bytes, as a share; over [process, dose]."""
    return mean(over[:, -1]).map(lambda ln: float(np.expm1(ln)))


def _a_token(panel: Panel) -> tuple[float, float]:
    """Time and bytes a token at the largest dose, over those of one query."""
    tokens = panel.doses[-1]
    return (
        float(panel.mean_s[-1] / panel.mean_s[0] / tokens),
        float(panel.moved_bytes[-1] / panel.moved_bytes[0] / tokens),
    )


def _told(panel: Panel, meet: float, flat: Plateau | None, bend: Estimate | None) -> str:
    time, moved = _a_token(panel)
    said = [
        f"with {panel.doses[-1]:.0f} queries a token takes {time:.0%} of the time and {moved:.0%} of the bytes of one"
    ]
    if flat is not None:
        said.append(f"time rises over bytes by {percent(flat.largest.map(lambda r: r - 1))} below the ridge")
    if bend is not None:
        said.append(f"by {percent(bend)} beyond it")
    where = "meet nowhere" if isinf(meet) else f"meet at s = {meet:.1f}"
    return f"{', '.join(said)}; the ceilings {where}"


def _figures(
    panel: Panel, meet: float, flat: Plateau | None, bend: Estimate | None, explained: float
) -> tuple[Figure, ...]:
    time, moved = _a_token(panel)
    found = [
        Figure("time a token at the most queries, of that at one", time, unit="%"),
        Figure("bytes a token at the most queries, of those at one", moved, unit="%"),
        Figure("queries at which the ceilings meet", meet, unit="queries"),
        Figure("bytes / bandwidth of the time of one query", explained, unit="%"),
    ]
    if flat is not None:
        found.append(
            estimated("largest rise over bytes below the ridge", flat.largest.map(lambda r: r - 1), "%")
        )
    if bend is not None:
        found.append(estimated("rise over bytes at the most queries beyond the ridge", bend, "%"))
    return tuple(found)
