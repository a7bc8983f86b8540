"""Claim files: written as rows are, read whole or not at all, passed by by readers of rows."""

from __future__ import annotations

import json
import os

import pytest
from flips import unnoticed
from observations import meta, seen
from rows import ceiling, run_rows, write

from membound.results.checksum import unsealed
from membound.results.claim.file import claim_files, load_claim, load_claims, new_claim_path
from membound.results.claim.observation import SCHEMA_VERSION, ObservationError
from membound.results.store import RunWriter, StoreError, load_rows
from membound.results.stored_runs import stored_runs
from membound.results.turns import StoredTurn


def written(folder, run_id="20260101T000000-test-cpu-aaaa"):
    with RunWriter(new_claim_path(folder, run_id)) as writer:
        writer.append(meta())
        writer.append(ceiling("read", 3e10, "bytes/s"))
        writer.append(seen(0.5))
        writer.append(seen(None, status="crashed", reason="SIGKILL"))
    return writer.path


def test_a_claim_file_is_read_as_it_was_written(tmp_path):
    path = written(tmp_path)
    assert path.name == "claim-20260101T000000-test-cpu-aaaa.jsonl"
    claim = load_claim(path)
    assert claim.meta == meta()
    assert [(r.work, r.value) for r in claim.ceilings] == [("read", 3e10)]
    assert [o.time_s for o in claim.observations] == [0.5, None]


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[: -1 - cut])
    assert [o.time_s for o in load_claim(path).observations] == [0.5]


def test_a_line_without_its_end_counts_if_it_is_whole(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert len(load_claim(path).observations) == 2


def test_lines_of_all_versions_may_stand_in_one_file(tmp_path):
    """As they do in the published claim of the Emerald Rapids guest."""
    path = written(tmp_path)
    turn = StoredTurn(0, 1.0, 0.25, 1, before={"read": 2e10}, after={"read": 4e10})
    lines = path.read_text().splitlines()
    old = [json.dumps(json.loads(unsealed(line.encode())) | {"schema_version": 1}) for line in lines[:3]]
    old[2] = json.dumps({k: v for k, v in json.loads(old[2]).items() if k != "turns"})
    skipped = seen(None, status="skipped", reason="no time left", schema_version=2)
    path.write_text("\n".join([*old, skipped.to_json(), seen(0.25, turns=[turn]).to_json(), ""]))
    found = load_claim(path).observations
    assert [one.schema_version for one in found] == [1, 2, SCHEMA_VERSION]
    assert [one.status for one in found] == ["ok", "skipped", "ok"]
    assert [[t.ceiling("read") for t in one.turns] for one in found] == [[], [], [3e10]]


def test_readers_of_rows_pass_it_by(tmp_path):
    claim = written(tmp_path)
    run = write(tmp_path / "20260102T000000-test-cpu-bbbb.jsonl", run_rows())
    assert len(load_rows(tmp_path)) == len(run_rows())
    assert stored_runs(tmp_path) == [run]
    assert claim_files(tmp_path) == [claim]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 5: not a JSON object"),
        ("[1]", "line 5: not a JSON object"),
        ('{"kind":"observation","schema_version":99}', "line 5: written by a newer membound"),
        ('{"kind":"ceiling","schema_version":1}', "line 5: not a row"),
        (meta().to_json(), "second line of kind meta"),
    ],
)
def test_any_other_line_is_refused_with_its_number(tmp_path, line, message):
    path = written(tmp_path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ObservationError, match=message):
        load_claim(path)


def test_a_file_of_rows_or_none_is_no_claim_file(tmp_path):
    with pytest.raises(ObservationError, match="does not begin with a line of kind meta"):
        load_claim(write(tmp_path / "a.jsonl", run_rows()))
    with pytest.raises(ObservationError, match="does not begin with a line of kind meta"):
        load_claim(write(tmp_path / "b.jsonl", []))
    with pytest.raises(StoreError, match="no such claim file"):
        load_claim(tmp_path / "c.jsonl")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe is no file that could hold a claim"):
        load_claim(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe cannot be searched: it is no folder"):
        claim_files(tmp_path / "pipe")


def test_every_flipped_bit_of_a_claim_is_noticed(tmp_path):
    path = written(tmp_path)
    assert unnoticed(path, ObservationError, lambda: load_claim(path), step=29) == []


def test_what_is_no_file_is_passed_by(tmp_path):
    path = written(tmp_path)
    os.mkfifo(tmp_path / "claim-b.jsonl")
    (tmp_path / "claim-c.jsonl").symlink_to(tmp_path / "nothing")
    with pytest.warns(UserWarning, match="passed by"):
        assert claim_files(tmp_path) == [path]


def test_copies_count_once_by_what_they_hold(tmp_path):
    path = written(tmp_path)
    copy = tmp_path / "claim-copy.jsonl"
    copy.write_bytes(path.read_bytes())
    with pytest.warns(UserWarning, match=r"is a copy of .*aaaa\.jsonl: it counts once"):
        assert [one for one, _ in load_claims([path, path, copy])] == [path]
    copy.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1]))
    with pytest.raises(ObservationError, match=r"both hold claim .*, and differ: name one of them"):
        list(load_claims([path, copy]))
