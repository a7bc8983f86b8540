"""The file of pre-registered experiments: whole, consistent with itself, and refused where it is not."""

from __future__ import annotations

import hashlib

import pytest

from membound.results.claim.experiments import FILE, TEXTS, ExperimentsError, load_experiments


def test_all_are_registered_with_every_text_and_number():
    register = load_experiments()
    assert [e.id for e in register] == list(range(1, 14))
    assert register.sha256 == hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert len({e.name for e in register}) == 13
    for experiment in register:
        assert all(getattr(experiment, key).endswith((".", ".)")) for key in TEXTS)
        assert experiment.processes >= 3
        assert experiment.doses >= 1
        assert experiment.arms
        assert experiment.factors


def test_the_numbers_in_the_texts_are_the_thresholds():
    text = FILE.read_text()
    assert "{rise:.0%}" in text
    free = load_experiments()[1]
    assert f"{free.thresholds['rise']:.0%}" in free.falsified_if
    assert f"{free.processes} processes" in free.sample_size
    assert not any("{" in getattr(e, key) for e in load_experiments() for key in TEXTS)


def test_every_threshold_stands_in_a_text():
    import tomllib

    for entry in tomllib.loads(FILE.read_text())["experiment"]:
        texts = " ".join(entry[key] for key in TEXTS)
        unsaid = [name for name in entry["thresholds"] if f"{{{name}:" not in texts]
        assert set(unsaid) <= {"slowdown", "misfit", "doses"}, entry["name"]


def test_an_unknown_number_is_refused_with_the_ids():
    with pytest.raises(KeyError, match="no experiment 14; there are 1, 2"):
        load_experiments()[14]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 4", "version = 'x'", "version is missing or no int"),
        ("{rise:.0%}", "{raise:.0%}", "experiment 1: falsified_if names 'raise'"),
        ("id = 2", "id = 3", r"ids are \[1, 3, 3"),
        ("held = ", "hold = ", "experiment 1: held, hold missing or unknown"),
        ("rise = 0.05", "rise = '5'", "experiment 1: a threshold is no number"),
        ("processes = 3, doses = 4 }", "doses = 4 }", "experiment 1: thresholds lack processes"),
        ("factors = { k =", "factors = { k = 3, j =", "experiment 1: factors must name"),
        ("version = 4", "version = ", "not TOML"),
        ("version = 4", f"version = {'9' * 5000}", "not TOML: Exceeds the limit"),
        ("version = 4", "version = true", "version is missing or no int"),
        ("id = 2", "id = 1979-05-27", "experiment 1979-05-27: id is no whole number"),
        ('name = "free compute"', "name = 5", "experiment 1: name is no text"),
        ("arms = {", "arms = 5 # {", "experiment 1: arms must be a table"),
        ("rise = 0.05", "rise = nan", "experiment 1: a threshold is no number from 0"),
        ("rise = 0.05", "rise = inf", "experiment 1: a threshold is no number from 0"),
        ("rise = 0.05", "rise = true", "experiment 1: a threshold is no number from 0"),
        (
            "processes = 3, doses = 4 }",
            "processes = 0, doses = 4 }",
            "thresholds lack processes, or it is below 1",
        ),
        ("{rise:.0%}", "{rise.__class__}", "experiment 1: falsified_if has braces"),
        ("{rise:.0%}", "{rise:>99999999}", "experiment 1: falsified_if has braces"),
        ("{rise:.0%}", "{0}", "experiment 1: falsified_if has braces"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, old, new, message):
    text = FILE.read_text()
    assert old in text
    path = tmp_path / "experiments.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ExperimentsError, match=message):
        load_experiments(path)
