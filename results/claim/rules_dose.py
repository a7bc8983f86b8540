"""The rules of experiments 1, 2, 3, 10 and 11: does time follow bytes or FLOPs? Texts in experiments.toml."""

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
    span,
)
from membound.results.claim.inference import SIGNIFICANCE, Estimate, elasticity, equivalent, plateau
from membound.results.claim.knee import knee
from membound.results.claim.observation import Observation

FORMAT_ARMS = ("kv_format", "weight_format")
"""Arms of the byte dose that refute nothing, since formats change the arithmetic too."""

FAR = "lie far enough below the ridge"
"""Of doses whose FLOPs / peak is well below their bytes / bandwidth."""


def free_compute(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """1: extra multiply-adds on each loaded element cost no time up to half the ridge."""
    panel = panel_of(seen, lambda one: one.number("k")).complete(experiment.processes)
    require(experiment, len(panel.processes), len(panel.doses))
    limits = experiment.thresholds
    ridge = crossing(panel)
    if panel.doses[0] != 0:
        raise TooLittle("k = 0 was not measured")
    flat = (panel.doses > 0) & (panel.compute_s <= limits["plateau"] * panel.memory_s)
    if not flat.any():
        raise TooLittle(f"no k up to {limits['plateau']:.0%} of the ridge, which is at k = {ridge:.1f}")
    if panel.compute_s[-1] < panel.memory_s[-1]:
        raise TooLittle(f"no k beyond the ridge, which is at k = {ridge:.1f}")
    if (np.diff(panel.flops) <= 0).any():
        raise TooLittle("more multiply-adds an element are not more FLOPs")
    rise = plateau(panel.ln_time[:, flat] - panel.ln_time[:, :1], limits["rise"])
    bend = knee(panel.ln_flops, panel.ln_time).map(
        lambda ln: float(np.interp(np.exp(ln), panel.flops, panel.doses, right=np.inf))
    )
    explained = float(panel.memory_s[0] / panel.mean_s[0])
    figures = (
        estimated("largest rise up to half the ridge", rise.largest.map(lambda r: r - 1), "%"),
        estimated("knee", bend, "k"),
        Figure("ridge predicted from the ceilings", ridge, unit="k"),
        Figure("bytes / bandwidth of the time at k = 0", explained, unit="%"),
    )
    top = percent(rise.largest.map(lambda r: r - 1))
    where = f"the knee is at k = {bend.value:.1f}, the ceilings predict {ridge:.1f}"
    if rise.largest.above(1 + limits["rise"]):
        return Ruling(REFUTED, f"FLOPs are not free: time rises by {top} before half the ridge.", figures)
    if explained < limits["explained"]:
        why = f"memory explains only {explained:.0%} of the time, so that overhead hides the FLOPs"
        return Ruling(INCONCLUSIVE, f"FLOPs cost {top} before half the ridge, but {why}.", figures)
    if rise.p_equal < SIGNIFICANCE:
        return Ruling(
            SUPPORTED, f"FLOPs are free up to half the ridge: time rises by {top}; {where}.", figures
        )
    return Ruling(INCONCLUSIVE, f"Time rises by {top} before half the ridge; {where}.", figures)


def byte_dose(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """2: time is proportional to bytes."""
    arm, least = seen[0].arm, experiment.thresholds["elasticity"]
    panel = panel_of(seen, lambda one: float(one.bytes)).complete(experiment.processes)
    if arm not in FORMAT_ARMS:
        _ceilings(panel)
        panel = panel.at(panel.compute_s <= experiment.thresholds["below"] * panel.memory_s)
    require(experiment, len(panel.processes), len(panel.doses))
    slope = elasticity(np.log(panel.moved_bytes), panel.ln_time)
    figures = (estimated("d ln t / d ln bytes", slope),)
    if arm in FORMAT_ARMS:
        return _formats(panel, seen, slope, figures, least)
    if slope.below(least):
        return Ruling(REFUTED, f"Time does not follow bytes: elasticity {span(slope)}.", figures)
    if slope.low >= least:
        return Ruling(SUPPORTED, f"Time follows bytes: elasticity {span(slope)}.", figures)
    return Ruling(INCONCLUSIVE, f"The elasticity of time with bytes is {span(slope)}.", figures)


def _formats(
    panel: Panel,
    seen: Sequence[Observation],
    slope: Estimate,
    figures: tuple[Figure, ...],
    least: float,
) -> Ruling:
    """Time per byte of each format over that of the widest one: the cost of dequantisation."""
    names = {float(one.bytes): str(one.factors.get("format", "")) for one in seen}
    per_byte = panel.mean_s / panel.moved_bytes
    costs = tuple(
        Figure(f"time a byte over that of {names[panel.doses[-1]]}: {names[dose]}", float(cost), unit="%")
        for dose, cost in zip(panel.doses[:-1], per_byte[:-1] / per_byte[-1] - 1, strict=True)
    )
    worst = max(costs, key=lambda cost: cost.value)
    sentence = (
        f"Over formats the elasticity is {span(slope)}; the dearest costs {worst.value:.0%} more a byte."
    )
    return Ruling(SUPPORTED if slope.low >= least else INCONCLUSIVE, sentence, figures + costs)


def flop_dose(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """3: below the knee time does not follow FLOPs."""
    panel = panel_of(seen, lambda one: one.positive("m")).complete(experiment.processes)
    limits = experiment.thresholds
    _ceilings(panel)
    below = panel.at(panel.compute_s <= limits["below"] * panel.memory_s)
    above = panel.at(panel.compute_s >= panel.memory_s / limits["below"])
    require(experiment, len(below.processes), len(below.doses), FAR)
    slope = elasticity(below.ln_flops, below.ln_time)
    explained = float(below.memory_s[0] / below.mean_s[0])
    figures = [
        estimated("d ln t / d ln FLOPs below the knee", slope),
        Figure("knee predicted from the ceilings", crossing(panel), unit="m"),
        Figure("bytes / bandwidth of the time at the smallest m", explained, unit="%"),
    ]
    beyond = ""
    if len(above.doses) > 1:
        steep = elasticity(above.ln_flops, above.ln_time)
        figures.insert(1, estimated("d ln t / d ln FLOPs above the knee", steep))
        beyond = f", above it {span(steep)}"
    text = f"elasticity with FLOPs below the knee {span(slope)}{beyond}"
    if slope.above(limits["elasticity"]):
        return Ruling(REFUTED, f"Time follows FLOPs where it should not: {text}.", tuple(figures))
    if explained < limits["explained"]:
        why = f"memory explains only {explained:.0%} of the time at the smallest m"
        return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}, but {why}.", tuple(figures))
    if equivalent(slope, limits["elasticity"]):
        return Ruling(SUPPORTED, f"Time does not follow FLOPs: {text}.", tuple(figures))
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", tuple(figures))


def counterexamples(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """10: prefill, large batches and latent attention are compute-bound."""
    panel = panel_of(seen, lambda one: one.number("dose")).complete(experiment.processes)
    require(experiment, len(panel.processes), len(panel.doses))
    limits = experiment.thresholds
    slope = elasticity(panel.ln_flops, panel.ln_time)
    memory = float(panel.memory_s[-1] / panel.mean_s[-1])
    compute = float(panel.compute_s[-1] / panel.mean_s[-1])
    if np.isnan(memory):
        raise TooLittle("no read ceiling was measured")
    figures = (
        estimated("d ln t / d ln FLOPs", slope),
        Figure("bytes / bandwidth of the time at the largest dose", memory, unit="%"),
        Figure("FLOPs / peak of the time at the largest dose", compute, unit="%"),
    )
    text = f"elasticity with FLOPs {span(slope)}, bytes take {memory:.0%} of the time at the largest dose"
    if slope.below(limits["elasticity"]) or memory > limits["memory"]:
        return Ruling(REFUTED, f"It is not compute-bound: {text}.", figures)
    if slope.low >= limits["elasticity"]:
        return Ruling(SUPPORTED, f"It is compute-bound: {text}.", figures)
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)


def expert_dose(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """11: at equal FLOPs the time of routed experts follows the bytes of those that are read."""
    panel = panel_of(seen, lambda one: one.positive("distinct")).complete(experiment.processes)
    limits = experiment.thresholds
    _ceilings(panel)
    panel = panel.at(panel.compute_s <= limits["below"] * panel.memory_s)
    require(experiment, len(panel.processes), len(panel.doses), FAR)
    slope = elasticity(np.log(panel.moved_bytes), panel.ln_time)
    explained = float(panel.memory_s[-1] / panel.mean_s[-1])
    figures = (
        estimated("d ln t / d ln bytes of experts", slope),
        Figure("bytes / bandwidth of the time at the most experts", explained, unit="%"),
    )
    if slope.below(limits["elasticity"]):
        return Ruling(REFUTED, f"Time does not follow the experts read: elasticity {span(slope)}.", figures)
    if explained < limits["explained"]:
        why = f"memory explains only {explained:.0%} of the time with the most experts"
        return Ruling(
            INCONCLUSIVE, f"The elasticity of time with bytes is {span(slope)}, but {why}.", figures
        )
    if slope.low >= limits["elasticity"]:
        return Ruling(SUPPORTED, f"Time follows the experts read: elasticity {span(slope)}.", figures)
    return Ruling(
        INCONCLUSIVE, f"The elasticity of time with the bytes of experts is {span(slope)}.", figures
    )


def crossing(panel: Panel) -> float:
    """The dose at which FLOPs / peak meets bytes / bandwidth; both are straight lines in the dose.

    Infinity where they never meet. Raises TooLittle without ceilings.
    """
    _ceilings(panel)
    compute_slope, compute_s = np.polyfit(panel.doses, panel.compute_s, 1)
    memory_slope, memory_s = np.polyfit(panel.doses, panel.memory_s, 1)
    if compute_slope <= memory_slope:
        return np.inf
    return float((memory_s - compute_s) / (compute_slope - memory_slope))


def _ceilings(panel: Panel) -> None:
    if np.isnan(panel.memory_s).any() or np.isnan(panel.compute_s).any():
        raise TooLittle("no ceiling of memory or of the arithmetic was measured")
