from pathlib import Path

import pytest

from membound.bench.planning.demands import demand_of
from membound.bench.planning.here import HereError, here_of, heres_of, published_operations
from membound.bench.planning.measured import measured_rows
from membound.results.predict.catalogue import load_catalogue
from membound.results.predict.forecast import Knowledge, Options, forecast
from membound.results.store import load_rows

PUBLISHED = Path(__file__).parents[3] / "results/published"
ROWS = load_rows(PUBLISHED / "amd-turin-2-cores/20261128T003838-amd-epyc-0bb8.jsonl")
CATALOGUE = load_catalogue()


def test_a_run_knows_its_device_and_its_ceilings():
    here = here_of(ROWS, CATALOGUE)
    assert (here.device.id, here.threads) == ("epyc_9005", 2)
    assert here.ceilings["bandwidth_gb_per_s"] == pytest.approx(80.58, abs=0.01)
    assert here.ceilings["int8_tops"] >= 2.17


def test_its_works_are_rows_on_the_bandwidth_of_their_moment():
    rows = {row.demand.work.partition(":")[0]: row for row in here_of(ROWS, CATALOGUE).rows}
    assert set(rows) >= {"linear", "step", "attention"}
    step = rows["step"]
    assert (step.group, step.offer.kind, step.device) == ("single", "cpu", "epyc_9005")
    share = step.demand.bytes / step.seconds / step.offer.bandwidth_bytes_per_s
    assert 0.5 < share < 1.1
    assert rows["linear"].group == "operation"


def test_predictions_learn_from_it():
    published = measured_rows(CATALOGUE)[0]
    device, work = CATALOGUE.find("epyc_9004"), demand_of("linear:n=14336,k=4096,m=1,weight=f32")
    with_run = Knowledge.of([*published, *here_of(ROWS, CATALOGUE).rows])
    found = forecast(work, device, with_run, Options())
    assert found.timed["three terms"].errors.rows >= 3
    assert not any("no operation was measured" in note for note in found.notes)
    assert (
        work.bytes / 460.8e9
        < found.seconds
        < forecast(work, device, Knowledge.of(published), Options()).seconds
    )


def test_published_operations_are_of_machines_and_never_predict_their_own_kind():
    rows = published_operations(CATALOGUE)
    assert {row.group for row in rows} == {"operation"}
    machines = {path.name for path in PUBLISHED.iterdir() if path.is_dir()}
    assert {row.device for row in rows} <= machines | {"epyc_9005"}
    assert len({row.device for row in rows}) >= 3
    known = Knowledge.of([*measured_rows(CATALOGUE)[0], *rows])
    without = Knowledge.of([*measured_rows(CATALOGUE)[0], *[r for r in rows if r.device != "epyc_9005"]])
    assert known.learn("epyc_9005").terms.values == pytest.approx(without.learn("l4").terms.values)


def test_several_runs_are_several_machines():
    path = PUBLISHED / "intel-xeon-amx-2-cores/20261128T210353-intel-xeon-d8e2.jsonl"
    both = heres_of([*ROWS, *load_rows(path)], CATALOGUE)
    assert [here.run_id for here in both] == [ROWS[0].run_id, path.name.removesuffix(".jsonl")]
    assert both[1].ceilings["bandwidth_gb_per_s"] < both[0].ceilings["bandwidth_gb_per_s"]


def test_a_run_without_ceilings_is_refused():
    with pytest.raises(HereError, match="has no read ceiling; measure with `membound run`"):
        here_of([row for row in ROWS if row.kind != "ceiling"], CATALOGUE)
