"""What a run is to use, as far as it needs no probing: the memory of devices that were found."""

from __future__ import annotations

import re

import pytest

from membound.bench.planning import choice as setup
from membound.bench.planning.choice import OptionError, choose_backends
from membound.bench.planning.probe import Found
from membound.errors import BackendUnavailable

GPU = {"memory_bytes": 80_000_000_000, "cache_bytes": 50_000_000}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [
        Found("alpha:cpu", "alpha", True),
        Found("alpha:npu:0", "alpha", True, accelerator=GPU),
        Found("alpha:npu:0+graph", "alpha", True, accelerator=GPU),
        Found("alpha:npu:1", "alpha", False, "gone", accelerator=None),
    ]
    monkeypatch.setattr(setup, "probe", lambda *_: devices)
    opened = [Found("alpha:npu", "alpha", True)]  # without a number it is opened, to see whether it is there
    monkeypatch.setattr(setup, "probe_devices", lambda *_: opened)
    monkeypatch.setattr(setup.registry, "entries", lambda: ("alpha",))
    monkeypatch.setattr(setup.registry, "entry_for", lambda name: "alpha")


@pytest.mark.usefixtures("found")
def test_devices_bring_the_size_of_their_memory() -> None:
    everything = choose_backends([], 2, {})
    assert everything.chosen == ("alpha:cpu", "alpha:npu:0", "alpha:npu:0+graph")
    assert everything.device_memory == dict.fromkeys(
        ("alpha:npu:0", "alpha:npu:0+graph"), GPU["memory_bytes"]
    )
    named = choose_backends(["alpha:npu:0+offload", "alpha:cpu"], 2, {})
    assert named.device_memory == {"alpha:npu:0+offload": GPU["memory_bytes"]}


@pytest.mark.usefixtures("found")
def test_devices_bring_the_variants_that_are_there_too() -> None:
    assert choose_backends([], 2, {}).variants == {"alpha:npu:0": ("graph",)}
    assert choose_backends(["alpha:npu"], 2, {}).variants == {"alpha:npu": ("graph",)}
    assert choose_backends(["alpha:npu:0+graph", "alpha:cpu", "alpha:npu:2"], 2, {}).variants == {}


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ("beta:cpu", False),
        ("beta", False),
        ("beta:cuda", True),
        ("beta:cuda:1+graph", True),
        ("beta:cudax", False),
        ("gamma:cpu", True),
    ],
)
def test_a_device_whose_kind_is_absent_is_refused_and_its_siblings_are_not(
    asked: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [
        Found("beta:cpu", "beta.cpu", True),
        Found("beta:cuda", "beta.cuda", False, "no driver", "install one"),
        Found("gamma", "gamma", False, "not installed"),
    ]
    monkeypatch.setattr(setup, "probe", lambda *_: devices)
    monkeypatch.setattr(setup.registry, "entries", lambda: ("beta.cpu", "beta.cuda", "gamma"))
    monkeypatch.setattr(setup.registry, "entry_for", lambda name: "beta")
    opened = [Found("beta:cudax", "beta", True)]
    monkeypatch.setattr(
        setup, "probe_devices", lambda names, *_: opened if names == ("beta:cudax",) else None
    )
    if refused:
        with pytest.raises(BackendUnavailable, match=f"^{re.escape(asked)} is not available: no"):
            choose_backends([asked], 2, {})
    else:
        assert choose_backends([asked], 2, {}).chosen == ("beta:cpu" if asked == "beta" else asked,)


def test_where_nothing_that_was_asked_for_is_there_the_run_is_refused(
    found: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, ...]] = []

    def probe_devices(names: tuple[str, ...], *_: object) -> list[Found]:
        opened.append(names)
        return [Found(name, "alpha", "odd" in name, "no such device", "buy one") for name in names]

    monkeypatch.setattr(setup, "probe_devices", probe_devices)
    with pytest.raises(BackendUnavailable) as refused:
        choose_backends(["alpha:gpu7", "alpha:cpu+foo", "alpha:gpu7"], 2, {})
    assert str(refused.value) == (
        "alpha:gpu7 is not available: no such device; buy one; "
        "alpha:cpu+foo is not available: no such device; buy one"
    )
    assert choose_backends(["alpha:gpu7", "alpha:odd"], 2, {}).chosen == ("alpha:gpu7", "alpha:odd")
    assert opened == [("alpha:gpu7", "alpha:cpu+foo"), ("alpha:gpu7", "alpha:odd")]
    # beside one that is known to be there it becomes a row, and nothing is opened beforehand
    assert choose_backends(["alpha:gpu7", "alpha:cpu"], 2, {}).chosen == ("alpha:gpu7", "alpha:cpu")
    assert len(opened) == 2


# The same backend more than once


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (["alpha:cpu", "alpha:cpu#2"], ("alpha:cpu", "alpha:cpu#2")),
        (["alpha:cpu#a", "alpha:cpu#b"], ("alpha:cpu#a", "alpha:cpu#b")),
        (["alpha:cpu#a", "alpha:cpu#a"], ("alpha:cpu#a",)),
        (["alpha", "alpha:cpu#2"], ("alpha:cpu", "alpha:npu:0", "alpha:npu:0+graph", "alpha:cpu#2")),
        (["alpha:npu:0+graph#x.1-b_2"], ("alpha:npu:0+graph#x.1-b_2",)),
    ],
)
def test_a_label_makes_a_contestant_of_its_own(asked: list[str], chosen: tuple[str, ...]) -> None:
    assert choose_backends(asked, 2, {}).chosen == chosen


@pytest.mark.usefixtures("found")
def test_a_labelled_device_has_what_the_plain_one_has() -> None:
    choice = choose_backends(["alpha:npu:0", "alpha:npu:0#2"], 2, {})
    assert choice.device_memory == dict.fromkeys(choice.chosen, GPU["memory_bytes"])
    assert choice.device_cache == dict.fromkeys(choice.chosen, GPU["cache_bytes"])
    assert choice.variants == dict.fromkeys(choice.chosen, ("graph",))


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    "name",
    ["alpha#2", "alpha:cpu#", "alpha:cpu#a b", "alpha:cpu#2#3", "alpha:cpu#ä:x", f"alpha:cpu#{'x' * 21}"],
)
def test_a_label_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="is not backend:device#LABEL, with a label of") as refused:
        choose_backends([name], 2, {})
    assert repr(name) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("found")
def test_a_labelled_device_that_is_absent_is_refused_by_its_plain_name() -> None:
    with pytest.raises(BackendUnavailable, match=r"^alpha:npu:1 is not available: gone"):
        choose_backends(["alpha:cpu", "alpha:npu:1#2"], 2, {})
