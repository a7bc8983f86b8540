import pytest

from membound.results.predict.catalogue import HardwareError, load_catalogue
from membound.results.predict.condition import conditions, number_of

DEVICES = list(load_catalogue().devices.values())


def chosen(text):
    wanted = conditions(text)
    return {device.id for device in DEVICES if all(one.holds(device) for one in wanted)}


def test_figures_are_compared_and_unknown_ones_meet_nothing():
    assert chosen("memory_gb>=288") >= {"b300_sxm", "mi355x", "m3_ultra"}
    assert "zixiao_c100" not in chosen("memory_gb>=0") | chosen("memory_gb<1e9") | chosen("memory!=5")
    assert chosen("bandwidth_gb_per_s=3350") == {"h100_sxm", "h800_sxm"}


def test_conditions_join_and_texts_match_in_part():
    assert chosen("kind=gpu and vendor=amd, memory>=192") == {"mi300x", "mi325x", "mi355x"}
    assert chosen("vendor!=nvidia,ridge>250,kind=gpu") >= {"mi355x"}
    assert chosen("") == {device.id for device in DEVICES}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory_gb", "'memory_gb' is no condition"),
        ("memery>=3", "unknown figure 'memery'; nearest: memory"),
        ("memory>=lots", "'lots' is not a number"),
        ("kind>gpu", "kind is compared with = or !="),
    ],
)
def test_a_wrong_condition_is_refused(text, said):
    with pytest.raises(HardwareError) as error:
        conditions(text)
    assert said in str(error.value)


def test_an_unknown_figure_to_sort_by_is_refused():
    assert number_of(DEVICES[0], "ridge") == pytest.approx(125e12 / 900e9)
    with pytest.raises(HardwareError, match="unknown figure 'speed'"):
        number_of(DEVICES[0], "speed")
