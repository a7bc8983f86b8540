"""The rules of experiments 4, 7, 8 and 9: how the machine affects a work. Texts in experiments.toml."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from membound.results.claim.dose_table import panel_of
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
from membound.results.claim.inference import (
    Estimate,
    Floats,
    Indices,
    bootstrap,
    difference,
    mean,
    ratio_of_means,
)
from membound.results.claim.observation import Observation
from membound.results.claim.terms import fit_terms

THIEVES = {"bandwidth": "stolen_bytes_per_s", "fma": "stolen_flops_per_s"}
"""The arms of the theft, and for each the factor that says how much was taken."""
SAME_BANDWIDTH = 1.05
"""Two machines whose measured bandwidths are closer than this cannot be told apart."""


def theft(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """4: a thief of bandwidth slows decoding, a thief of FLOPs does not."""
    slopes, rates, doses = _slopes(seen)
    require(experiment, len(slopes["fma"]), doses)
    limits = experiment.thresholds
    lost = {thief: mean(slopes[thief]) for thief in THIEVES}
    share = ratio_of_means(slopes["fma"], slopes["bandwidth"])
    figures = (
        estimated("slowdown by the thief of bandwidth, at its whole core", lost["bandwidth"], "%"),
        estimated("slowdown by the thief of FLOPs, at its whole core", lost["fma"], "%"),
        estimated("thief of FLOPs over thief of bandwidth", share),
        *(
            estimated(f"slowdown for each {unit} stolen", mean(rates[thief] * 1e9), "%")
            for thief, unit in (("bandwidth", "GB/s"), ("fma", "GFLOP/s"))
            if not np.isnan(rates[thief]).all()  # one that never got its core has taken nothing
        ),
    )
    text = f"the thief of bandwidth slows decoding by {percent(lost['bandwidth'])}, that of FLOPs by {percent(lost['fma'])}"
    if not lost["bandwidth"].above(limits["slowdown"]):
        taken = _taken(seen)
        if lost["bandwidth"].below(limits["slowdown"]) and taken >= limits["stolen"]:
            why = f"though {taken:.0%} of what the machine can read was taken"
            return Ruling(REFUTED, f"Losing bandwidth does not slow decoding, {why}: {text}.", figures)
        why = f"The thief of bandwidth took {taken:.0%} of what the machine can read"
        return Ruling(INCONCLUSIVE, f"{why}, which does not show in the time: {text}.", figures)
    if share.above(limits["ratio"]):
        return Ruling(REFUTED, f"Losing FLOPs hurts as well: {text}.", figures)
    if share.below(limits["ratio"]):
        return Ruling(SUPPORTED, f"Losing bandwidth hurts, losing FLOPs does not: {text}.", figures)
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)


def _slopes(seen: Sequence[Observation]) -> tuple[dict[str, Floats], dict[str, Floats], int]:
    """For each thief and process, the slowdown at a whole core and for each unit per second; and the number of doses.

    Least squares through the origin over shares. Each slowdown is relative to the idle spinner of its process.
    """
    per_share: dict[str, list[float]] = {thief: [] for thief in THIEVES}
    per_unit: dict[str, list[float]] = {thief: [] for thief in THIEVES}
    doses = {one.number("duty") for one in seen if one.arm in THIEVES and one.number("duty") > 0}
    for process in sorted({one.replicate for one in seen}):
        of = {arm: [o for o in seen if o.replicate == process and o.arm == arm] for arm in ("idle", *THIEVES)}
        of |= {thief: [o for o in of[thief] if o.number("duty") > 0] for thief in THIEVES}
        if not all(of.values()):
            continue
        for thief, factor in THIEVES.items():
            slowed = np.array(
                [one.seconds / _idle_s(of["idle"], one.number("duty")) - 1 for one in of[thief]]
            )
            duty = np.array([one.number("duty") for one in of[thief]])
            taken = np.array([one.number(factor) for one in of[thief]])
            per_share[thief].append(float(slowed @ duty / (duty @ duty)))
            per_unit[thief].append(float(slowed @ taken / (taken @ taken)) if taken.any() else np.nan)
    if not per_share["fma"]:
        raise TooLittle("no process has the idle spinner and both thieves")
    return (
        {thief: np.array(values) for thief, values in per_share.items()},
        {thief: np.array(values) for thief, values in per_unit.items()},
        len(doses),
    )


def slowdowns(seen: Sequence[Observation], thief: str) -> list[tuple[float, float]]:
    """(share of its core, slowdown of the victim) of a thief in every process that has the idle spinner."""
    found = []
    for one in seen:
        idle = [o for o in seen if o.replicate == one.replicate and o.arm == "idle"]
        if one.arm == thief and idle:
            duty = one.number("duty")
            found.append((duty, one.seconds / _idle_s(idle, duty) - 1))
    return found


def _idle_s(idle: list[Observation], duty: float) -> float:
    """The victim's time with the idle spinner, at the same share of the core if that was measured."""
    same = [one.seconds for one in idle if one.factors.get("duty") == duty]
    return float(np.exp(np.mean(np.log(same or [one.seconds for one in idle]))))


def _taken(seen: Sequence[Observation]) -> float:
    """The largest mean share of the machine's read ceiling that the thief of bandwidth took; 0 without a ceiling."""
    shares: dict[float, list[float]] = {}
    for one in seen:
        ceiling = one.factors.get("machine_read_bytes_per_s")
        if one.arm == "bandwidth" and isinstance(ceiling, int | float) and ceiling > 0:
            shares.setdefault(one.number("duty"), []).append(one.number("stolen_bytes_per_s") / ceiling)
    return max((float(np.mean(values)) for values in shares.values()), default=0.0)


def overhead(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """7: the launch term is small in the works that bytes / bandwidth says are memory-bound."""
    works = sorted({one.work for one in seen})
    panel = panel_of(seen, lambda one: float(works.index(one.work))).complete(experiment.processes)
    require(experiment, len(panel.processes), len(panel.doses))
    named = {one.work: one.number("operations") for one in seen}
    operations = np.array([named[works[int(at)]] for at in panel.doses])
    terms = fit_terms(operations, panel.moved_bytes, panel.flops, np.exp(panel.ln_time))
    declared = panel.compute_s < panel.memory_s
    if not declared.any():
        raise TooLittle("bytes / bandwidth is the longer term of no work")
    weight = float(np.median(operations[declared] / panel.mean_s[declared]))
    share = terms.launch_s.map(lambda t0: t0 * weight)
    figures = (
        estimated("t0", terms.launch_s, "s"),
        Figure("BW of the three terms", terms.read_bytes_per_s, unit="bytes/s"),
        Figure("F of the three terms", terms.flops_per_s, unit="FLOP/s"),
        estimated("median share of t0 in works bound by memory", share, "%"),
        Figure("misfit", terms.misfit, unit="%"),
    )
    text = f"overhead takes {percent(share)} of the time of the works bound by memory (median)"
    limits = experiment.thresholds
    if terms.misfit > limits["misfit"]:
        why = f"the three terms miss the times by {terms.misfit:.0%} (median), so that they explain nothing"
        return Ruling(INCONCLUSIVE, f"{why[0].upper()}{why[1:]}: {text}.", figures)
    if share.above(limits["overhead"]):
        return Ruling(REFUTED, f"Overhead is not small: {text}.", figures)
    if share.high <= limits["overhead"]:
        return Ruling(SUPPORTED, f"Overhead is small: {text}.", figures)
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)


def clocks(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """8: time follows the memory clock and not the core clock, when both moved by themselves."""
    clock = _moved_clocks(experiment, seen)
    time = np.log([one.seconds for one in seen])
    for work in {one.work for one in seen}:
        same = np.array([one.work == work for one in seen])
        clock[same] -= clock[same].mean(axis=0)
        time[same] -= time[same].mean()
    rows = [
        [at for at, one in enumerate(seen) if one.replicate == process]
        for process in sorted({one.replicate for one in seen})
    ]
    require(experiment, len(rows), 1)
    sums = np.array([clock[at].T @ clock[at] for at in rows])
    products = np.array([clock[at].T @ time[at] for at in rows])

    def saved(memory: float, core: float) -> Estimate:
        def combined(draws: Indices) -> Floats:
            slopes = np.linalg.pinv(sums[draws].sum(axis=1)) @ products[draws].sum(axis=1)[..., None]
            return np.asarray(-memory * slopes[:, 0, 0] - core * slopes[:, 1, 0], np.float64)

        return bootstrap(combined, len(rows))

    gap = saved(1, -1)
    figures = (
        estimated("time saved by the memory clock, d ln / d ln", saved(1, 0)),
        estimated("time saved by the core clock, d ln / d ln", saved(0, 1)),
        estimated("memory clock less core clock", gap),
    )
    text = f"the memory clock's elasticity exceeds the core clock's by {span(gap)}"
    if gap.above(0):
        return Ruling(SUPPORTED, f"Time follows the memory clock: {text}.", figures)
    if gap.high <= 0:
        return Ruling(REFUTED, f"Time follows the core clock at least as much: {text}.", figures)
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)


def _moved_clocks(experiment: Experiment, seen: Sequence[Observation]) -> Floats:
    """ln of the memory and the core clock, [observation, 2]. Raises TooLittle if one did not move."""
    names = ("memory_clock_hz", "core_clock_hz")
    for name in names:
        if not all(isinstance(one.factors.get(name), int | float) for one in seen):
            raise TooLittle(f"the {name.partition('_')[0]} clock cannot be read here")
    clock = np.log([[one.positive(name) for name in names] for one in seen])
    for name, moved in zip(names, np.expm1(np.ptp(clock, axis=0)), strict=True):
        if moved < experiment.thresholds["moved"]:
            raise TooLittle(f"the {name.partition('_')[0]} clock moved by {moved:.0%} only")
    return clock


def pair(experiment: Experiment, seen: Sequence[Observation]) -> Ruling:
    """9: between machines that differ in memory alone, decode gains the ratio of bandwidths, prefill nothing."""
    read: dict[str, list[float]] = {}
    for one in seen:  # of the moments of its turns, so that it differs between the works of a machine
        read.setdefault(str(one.factors.get("machine")), []).append(one.number("read_bytes_per_s"))
    bandwidths = {machine: float(np.median(rates)) for machine, rates in read.items()}
    if len(bandwidths) != 2:
        raise TooLittle(f"{len(bandwidths)} machine{'s' * (len(bandwidths) != 1)}, and a pair is two")
    slow, fast = sorted(bandwidths, key=lambda name: bandwidths[name])
    gained = bandwidths[fast] / bandwidths[slow]
    if gained < SAME_BANDWIDTH:
        raise TooLittle(f"the bandwidths of the two machines differ by {gained - 1:.0%} only")
    speed = {
        arm: _speed_up([one for one in seen if one.arm == arm], slow, fast) for arm in ("decode", "prefill")
    }
    fewest = min(len(values) for sides in speed.values() for values in sides)
    require(experiment, fewest, len(speed))
    ln = {arm: difference(*sides) for arm, sides in speed.items()}
    decode, prefill = (ln[arm].map(lambda value: float(np.exp(value))) for arm in ("decode", "prefill"))
    both = [_paired(speed["decode"][side], speed["prefill"][side]) for side in (0, 1)]
    kept = decode.map(lambda ratio: ratio / gained)
    figures = (
        Figure(f"bandwidth of {fast} over {slow}", gained),
        estimated("decode speed-up", decode),
        estimated("prefill speed-up", prefill),
        estimated("decode speed-up over the ratio of bandwidths", kept),
        estimated("difference in differences of ln t", difference(both[0], both[1])),
    )
    text = f"{gained:.2f} × the bandwidth gives decode {span(decode)} ×, prefill {span(prefill)} ×"
    limits = experiment.thresholds
    flat = (1 - limits["prefill"], 1 + limits["prefill"])
    outside = kept.below(limits["low"]) or kept.above(limits["high"])
    if outside or prefill.below(flat[0]) or prefill.above(flat[1]):
        return Ruling(REFUTED, f"The pair differs from what bandwidth explains: {text}.", figures)
    inside = kept.low >= limits["low"] and kept.high <= limits["high"]
    if inside and prefill.low >= flat[0] and prefill.high <= flat[1]:
        return Ruling(SUPPORTED, f"Decode gains what the bandwidth gains: {text}.", figures)
    return Ruling(INCONCLUSIVE, f"{text[0].upper()}{text[1:]}.", figures)


def _speed_up(seen: list[Observation], slow: str, fast: str) -> tuple[Floats, Floats]:
    """ln t of each process of the slow and of the fast machine, averaged over the works that both ran."""
    works = {name: {one.work for one in seen if one.factors.get("machine") == name} for name in (slow, fast)}
    common = sorted(works[slow] & works[fast])
    if not common:
        raise TooLittle("the two machines share no work of decode or none of prefill")
    sides = []
    for name in (slow, fast):
        of = [one for one in seen if one.factors.get("machine") == name and one.work in common]
        panel = panel_of(of, lambda one: float(common.index(one.work))).complete()
        sides.append(panel.ln_time.mean(axis=1))
    return sides[0], sides[1]


def _paired(decode: Floats, prefill: Floats) -> Floats:
    """Decode minus prefill, for the processes that have both."""
    both = min(len(decode), len(prefill))
    return np.asarray(decode[:both] - prefill[:both], np.float64)
