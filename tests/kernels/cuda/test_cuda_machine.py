"""The GPUs that predictions are made for, against the catalogue of devices and by hand."""

from __future__ import annotations

import pytest

from membound.kernels.cuda.compile import CompileError, parse_target
from membound.kernels.cuda.machine import A100, B200, H100, H200, L4, MACHINES, Machine, machines
from membound.kernels.cuda.prediction import cycles_of_product
from membound.results.predict.catalogue import load_catalogue

LANES = {(8, 0): 64, (8, 9): 128, (9, 0): 128, (10, 0): 128}
"""float32 multiply-adds of a multiprocessor in a cycle (CUDA Programming Guide, Throughput of Native Arithmetic Instructions)."""


def figure(machine: Machine, name: str) -> float:
    """What the catalogue of devices says."""
    value = load_catalogue().devices[machine.device].value(name)
    assert value is not None
    return value


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_a_machine_agrees_with_the_catalogue_of_devices(machine: Machine) -> None:
    """Copies stay below the bandwidth on paper, multiprocessors and clocks make its peaks."""
    assert 0.85 <= machine.copy_bytes_per_s / (1e9 * figure(machine, "bandwidth_gb_per_s")) <= 0.9001
    cycles = machine.multiprocessors * machine.clock_hz
    lanes = LANES[parse_target(machine.target)[:2]]
    assert 0.88 <= 2 * lanes * cycles / (1e12 * figure(machine, "f32_tflops")) <= 1.001
    products = 2 * machine.capability.multiply_adds * cycles
    assert 0.95 <= products / (1e12 * figure(machine, "bf16_tflops")) <= 1.07


def test_a_kb_takes_as_many_cycles_as_memory_is_slow() -> None:
    cycles = {machine.name: round(machine.cycles_per_kb, 1) for machine in MACHINES}
    assert cycles == {"A100 SXM 80 GB": 85.0, "L4": 448.7, "H100 SXM": 79.1, "H200": 55.2, "B200": 43.5}


def test_a_product_of_tensor_cores_takes_more_cycles_where_they_are_older() -> None:
    """2048 multiply-adds by 1024 and 512 a cycle; by 2048 at the share of them that mma.sync reaches."""
    assert [cycles_of_product(machine) for machine in (A100, L4)] == [2.0, 4.0]
    assert [cycles_of_product(machine) for machine in (H100, B200)] == pytest.approx([1 / 0.629] * 2)


def test_machines_are_found_by_their_compute_capability() -> None:
    assert machines("8.0") == (A100,)
    assert machines("8.9") == (L4,)
    assert machines("9.0") == machines("9.0a") == (H100, H200)
    assert machines("10.0a") == (B200,)
    assert machines("12.0") == ()
    with pytest.raises(CompileError, match="too old"):
        machines("7.5")
