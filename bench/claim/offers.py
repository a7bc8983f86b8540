"""Which arms of the experiments a backend says it can do, by the contract and before anything is measured.

>>> from membound.bench.claim.arms import arms_of
>>> offered("mine:cpu", 2, {1: arms_of(1, scene), 2: arms_of(2, scene)})
{1: {'linear_f32': 'no kernels with extra arithmetic', ...}, 2: {}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from membound.backends import registry
from membound.backends.api import Backend, Device
from membound.bench.claim.arms import Arm
from membound.bench.measure.closing import closed
from membound.bench.measure.figures import reason_against
from membound.errors import Unsupported


def refusal(backend: Backend, device: Device, arm: Arm) -> str | None:
    """Why an opened backend cannot do an arm, in a few words; None if it should.

    The extra arithmetic of an arm that has some is then asked for, so that the next `prepare` has it.
    """
    work = arm.parsed
    reason = reason_against(backend, work)
    if reason is not None:
        return reason
    try:
        if arm.trade and device.accelerator is not None:
            backend.co_runner()  # asked for, not started
        if arm.extra_fmas is not None:
            backend.add_arithmetic(work, arm.extra_fmas)
    except Unsupported as error:
        return str(error)
    return None


def offered(name: str, threads: int, asked: Mapping[int, Sequence[Arm]]) -> dict[int, dict[str, str]]:
    """What ``backend:device`` cannot do of each experiment: names of arms, and why the first of that name is refused.

    A name is missing if one of its arms can be done. Raises BackendUnavailable.
    """
    backend = registry.create(name)
    try:
        device = backend.open(registry.device_of(name), threads)
        return {number: _refused(backend, device, arms) for number, arms in asked.items()}
    finally:
        closed(backend)


def _refused(backend: Backend, device: Device, arms: Sequence[Arm]) -> dict[str, str]:
    refused: dict[str, str] = {}
    for name in dict.fromkeys(arm.name for arm in arms):
        reasons = [refusal(backend, device, arm) for arm in arms if arm.name == name]
        if all(reasons):
            refused[name] = reasons[0] or ""
    return refused
