"""The rules of experiments 5 and 6: does the instrument see the cache, and where does a batch turn compute-bound?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from membound.results.claim.dose_table import Panel, panel_of
from membound.results.claim.experiments import Experiment
from membound.results.claim.finding import (
    BROKEN,
    INCONCLUSIVE,
    REFUTED,
    SUPPORTED,
    Figure,
    Ruling,
    TooLittle,
    estimated,
    percent,
    require,
    span,
)
from membound.results.claim.inference import elasticity, mean
from membound.results.claim.knee import change_point, knee
from membound.results.claim.observation import Observation
from membound.results.claim.rules_dose import crossing


def residency(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """5: sets that fit the cache are read faster than sets that do not, or the instrument is broken."""
    panel = panel_of(
        seen, lambda one: one.positive("working_set_bytes") / one.positive("cache_bytes")
    ).complete(experiment.processes)
    require(experiment, len(panel.processes), len(panel.doses))
    limits = experiment.thresholds
    small, large = panel.doses <= limits["small"], panel.doses >= limits["large"]
    if not small.any() or not large.any():
        raise TooLittle(
            f"working sets from {panel.doses[0]:.2g} to {panel.doses[-1]:.2g} × the cache do not lie on both sides of it"
        )
    ln_rate = np.log(panel.moved_bytes) - panel.ln_time
    best = int(np.where(small, ln_rate.mean(axis=0), -np.inf).argmax())
    gain = mean(ln_rate[:, best] - ln_rate[:, large].mean(axis=1)).map(lambda ln: float(np.expm1(ln)))
    step = change_point(np.log(panel.doses), ln_rate).map(lambda ln: float(np.exp(ln)))
    figures = (
        estimated("gain of the best set in the cache over those beyond it", gain, "%"),
        estimated("step at", step, "× the last-level cache"),
        Figure("best set", float(panel.doses[best]), unit="× the last-level cache"),
    )
    text = f"sets in the cache are read {percent(gain)} faster than sets beyond it"
    if gain.above(limits["gain"]):
        return Ruling(SUPPORTED, f"The instrument tells cache from memory: {text}.", figures)
    if gain.below(limits["gain"]):
        return Ruling(BROKEN, f"The instrument does not tell cache from memory: {text}.", figures)
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)


def batch_knee(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """6: linear products turn compute-bound at the predicted batch, grouped-query attention at none."""
    panel = panel_of(seen, lambda one: one.positive("batch")).complete(experiment.processes)
    require(experiment, len(panel.processes), len(panel.doses))
    predicted = crossing(panel)
    if seen[0].arm == "attention":
        return _attention(experiment, panel)
    return _linear(experiment, panel, predicted)


def _linear(experiment: Experiment, panel: Panel, predicted: float) -> Ruling:
    if not panel.doses[0] < predicted < panel.doses[-1]:
        raise TooLittle(
            f"batches {panel.doses[0]:.0f} to {panel.doses[-1]:.0f} do not enclose the predicted knee, {predicted:.0f}"
        )
    tolerance = experiment.thresholds["tolerance"]
    bend = knee(np.log(panel.doses), panel.ln_time).map(lambda ln: float(np.exp(ln)))
    explained = float(panel.memory_s[0] / panel.mean_s[0])
    figures = (
        estimated("knee", bend, "batch"),
        Figure("knee predicted from the ceilings", predicted, unit="batch"),
        Figure("bytes / bandwidth of the time at the smallest batch", explained, unit="%"),
    )
    low, high = predicted * (1 - tolerance), predicted * (1 + tolerance)
    text = f"time begins to rise at batch {span(bend)}, the ceilings predict {predicted:.1f}"
    if explained < experiment.thresholds["explained"]:
        why = f"memory explains only {explained:.0%} of the time at the smallest batch"
        return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}, but {why}.", figures)
    if bend.low >= low and bend.high <= high:
        return Ruling(SUPPORTED, f"The knee is where it was predicted: {text}.", figures)
    if bend.above(high) or bend.below(low):
        return Ruling(REFUTED, f"The knee is not where it was predicted: {text}.", figures)
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)


def _attention(experiment: Experiment, panel: Panel) -> Ruling:
    most = experiment.thresholds["attention"]
    shares = [mean(panel.ln_compute_s[at] - panel.ln_time[:, at]) for at in range(len(panel.doses))]
    top = max(shares, key=lambda share: share.value).map(lambda ln: float(np.exp(ln)))
    slope = elasticity(np.log(panel.moved_bytes), panel.ln_time)
    explained = float(panel.memory_s[0] / panel.mean_s[0])
    figures = (
        estimated("largest share of FLOPs / peak in the time", top, "%"),
        estimated("d ln t / d ln bytes over batches", slope),
        Figure("bytes / bandwidth of the time at the smallest batch", explained, unit="%"),
    )
    text = f"FLOPs / peak takes at most {percent(top)} of the time at any batch"
    if top.above(most):
        return Ruling(REFUTED, f"Attention turns compute-bound: {text}.", figures)
    if explained < experiment.thresholds["explained"]:
        why = f"memory explains only {explained:.0%} of the time at the smallest batch"
        return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}, but {why}.", figures)
    if top.below(most):
        return Ruling(SUPPORTED, f"Attention does not turn compute-bound: {text}.", figures)
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)
