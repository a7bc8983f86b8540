from dataclasses import replace
from itertools import pairwise

import pytest
from demands import demand, offer, row

from membound.results.predict.capacity import capacity, fewest_devices
from membound.results.predict.catalogue import HardwareError, load_catalogue
from membound.results.predict.forecast import Knowledge, Options, forecast, knee, sweep
from membound.results.predict.record import MODELS

CATALOGUE = load_catalogue()
KNOWN = Knowledge.of([row(f"gpu {n}", 0.02 + 0.002 * n) for n in range(8)])
H100, L4 = CATALOGUE.find("h100"), CATALOGUE.find("l4")


def test_capacity_by_hand():
    """10 GB of weights and 0.1 GB of cache a sequence in 0.9 · 20 GB leave room for 80 sequences of 1000 tokens."""
    room = capacity(demand(batch=30), 20e9, 1)
    assert (room.weights_bytes, room.cache_bytes, room.usable_bytes) == (10e9, 3e9, 18e9)
    assert room.fits
    assert (room.most_batch, room.most_context) == (80, 2666)
    assert not capacity(demand(batch=81), 20e9, 1).fits
    assert capacity(demand(batch=81), 20e9, 1, offload=0.5).most_batch == 130


def test_the_fewest_devices_are_powers_of_two():
    assert fewest_devices(demand(), 12e9) == 1
    assert fewest_devices(demand(resident_bytes=25e9), 12e9) == 4
    assert fewest_devices(demand(resident_bytes=1e15), 12e9) is None


def test_every_model_has_an_interval_around_its_time():
    found = forecast(demand(), H100, KNOWN, Options())
    for model in MODELS:
        timed = found.timed[model]
        assert timed.low_s < timed.seconds < timed.high_s
        assert timed.high_s / timed.seconds == pytest.approx(timed.seconds / timed.low_s)
        assert timed.errors.rows == 8
    assert found.seconds == found.parts.seconds
    assert "on the bandwidth of h100_sxm sources disagree: 3072 GB/s by others" in found.notes
    assert all(note.startswith(("extrapolation: ", "on the bandwidth")) for note in found.notes)


def test_offloaded_weights_come_over_the_link():
    """90 % of 9 GB over PCIe 4 x16 take 0.26 s, longer than the step."""
    found = forecast(demand(), L4, KNOWN, Options(offload=0.9))
    assert found.host_s == pytest.approx(0.9 * 9e9 / (16 * 1.969e9))
    assert found.seconds == found.host_s
    wider = forecast(demand(), L4, KNOWN, Options(offload=0.9, host_bytes_per_s=1e15))
    assert wider.seconds == wider.parts.seconds


def test_the_unseen_is_called_extrapolation():
    tpu = forecast(demand(), CATALOGUE.find("tpu_v5e"), KNOWN, Options())
    assert "extrapolation: no device of kind tpu was measured in this group" in tpu.notes
    prefill = forecast(demand(kind="prefill"), H100, KNOWN, Options())
    assert prefill.timed[MODELS[0]].errors is None
    assert any("no prefill was measured" in note for note in prefill.notes)
    large = forecast(demand(weights_bytes=9e11), H100, KNOWN, Options())
    assert "extrapolation: the bytes are far outside what was measured in this group" in large.notes


def test_more_devices_and_longer_contexts_than_were_measured_are_extrapolated():
    many = forecast(demand(), L4, KNOWN, Options(devices=16))
    assert not any("number of devices" in note for note in many.notes)  # none was measured in parallel
    rows = [row(f"gpu {n}", 0.02, devices=2) for n in range(6)]
    known = Knowledge.of([replace(one, group="parallel") for one in rows])
    said = "extrapolation: the number of devices is far outside what was measured in this group"
    assert said in forecast(demand(), L4, known, Options(devices=16)).notes
    assert said not in forecast(demand(), L4, known, Options(devices=2)).notes
    long = forecast(demand(context=50_000, token_cache_bytes=1.0), L4, KNOWN, Options())
    assert "extrapolation: the context is far outside what was measured in this group" in long.notes


def test_a_prediction_says_which_figures_nobody_vouches_for(tmp_path):
    notes = forecast(demand(), CATALOGUE.find("ascend_910"), KNOWN, Options()).notes
    assert "unverified in the catalogue: the bandwidth and the memory and the f16 peak of ascend_910" in notes
    assert not any(
        "unverified" in note or "disagree" in note for note in forecast(demand(), L4, KNOWN, Options()).notes
    )
    disputed = forecast(demand(), CATALOGUE.find("910b"), KNOWN, Options()).notes
    assert "on the bandwidth of ascend_910b sources disagree: 400, 800, 900, 1228 GB/s by others" in disputed
    path = tmp_path / "mine.toml"
    path.write_text("[device.mine]\nbandwidth_gb_per_s = 900\nmemory_gb = 48\n")
    mine = load_catalogue(path).find("mine")
    assert not any("unverified" in note for note in forecast(demand(), mine, KNOWN, Options()).notes)


def test_missing_figures_are_named_or_told():
    with pytest.raises(
        HardwareError, match=r"bandwidth of kunlun_p800 is unknown \(sources say 1600 or 2400 GB/s\); give it"
    ):
        forecast(demand(), CATALOGUE.find("p800"), KNOWN, Options())
    with pytest.raises(HardwareError, match=r"PCIe link of m4 is unknown; give it: --host-link"):
        forecast(demand(), CATALOGUE.find("m4"), KNOWN, Options(offload=0.5))
    cpu = forecast(demand(), CATALOGUE.find("xeon_spr"), KNOWN, Options())
    assert cpu.timed["FLOPs only"].seconds is None
    assert any("memory of xeon_spr is unknown" in note for note in cpu.notes)
    assert any("no bf16 peak of xeon_spr" in note for note in cpu.notes)


def test_a_work_that_fits_nowhere_is_refused():
    huge = demand(resident_bytes=1e15)
    with pytest.raises(HardwareError, match=r"needs 1e\+06 GB and fits on no 64 l4 with 24 GB each"):
        forecast(huge, L4, KNOWN, Options())
    with pytest.raises(
        HardwareError, match=r"does not fit on 1 × l4, of whose 24 GB .* 21.6; 4 would hold it"
    ):
        forecast(demand(resident_bytes=50e9), L4, KNOWN, Options(devices=1))


def test_a_device_is_predicted_without_its_own_rows():
    own = [*KNOWN.rows, *[row("h100_sxm", 5.0, bandwidth_bytes_per_s=3.35e12) for _ in range(20)]]
    learnt = Knowledge.of(own).learn("h100_sxm")
    assert learnt.terms.values == pytest.approx(KNOWN.learn("h100_sxm").terms.values)
    assert Knowledge.of(own).learn("l4").memory["single"] < learnt.memory["single"] / 10


def test_the_curve_ends_where_the_cache_does_and_has_a_knee():
    curve = sweep(
        lambda b: demand(batch=b, flops=1e12 * b, cache_bytes=1e6 * b),
        [1 << k for k in range(12)],
        L4,
        KNOWN,
        Options(),
    )
    assert [f.demand.batch for f in curve] == [1, 2, 4, 8, 16, 32, 64]
    assert {f.offer.devices for f in curve} == {1}
    assert all(far.seconds >= near.seconds for near, far in pairwise(curve[1:]))
    turning = knee(curve)
    at = curve.index(turning)
    assert curve[at + 1].tokens_per_s < 1.5 * turning.tokens_per_s
    assert all(b.tokens_per_s >= 1.5 * a.tokens_per_s for a, b in pairwise(curve[: at + 1]))


def test_a_curve_without_knee_says_none():
    curve = sweep(lambda b: demand(batch=b, cache_bytes=0, flops=1.0), [1, 2, 4], H100, KNOWN, Options())
    assert knee(curve) is None


def test_groups_follow_the_work():
    one = offer()
    assert forecast(demand(), H100, KNOWN, Options(devices=2)).group == "parallel"
    assert forecast(demand(batch=2), H100, KNOWN, Options()).group == "served"
    assert forecast(demand(), H100, KNOWN, Options()).group == "single"
    assert one.devices == 1
