import tomllib

import pytest

from membound.results.predict.catalogue import BUILT_IN, RANGES, HardwareError, load_catalogue
from membound.results.predict.device import PEAKS, TRUST
from membound.results.views.hardware import SHOWN, device_lines, short_value

CATALOGUE = load_catalogue()

NAMED = """V100, A100, H100, H200, H800, H20, B200, GB200, B300, L4, L40S, T4, RTX 3090, RTX 4090, RTX 5090, MI250X, MI300X, MI325X,
MI355X, Gaudi 2, Gaudi 3, TPU v4, TPU v5e, TPU v5p, TPU v6e, Ironwood, Trainium, Trainium2, Inferentia2, Ascend 910, Ascend 910B,
Ascend 910C, R200, P800, MLU370-X8, MLU590, DCU Z100, DCU K100_AI, Hanguang 800, Zixiao, CloudBlazer T20, CloudBlazer S60,
Xiyun C500, BR100, MTT S4000, BI-V100, JM9271, Fenghua 1, EPYC 9004 socket, Xeon Sapphire Rapids socket, Grace, Graviton4, Apple M4,
Strix Halo, DGX Spark, Milk-V Pioneer, Sophon SG2044, RISC-V P550"""


@pytest.mark.parametrize("name", [one.strip() for one in NAMED.split(",")])
def test_a_device_that_people_name_is_found(name):
    assert CATALOGUE.find(name).id in CATALOGUE.devices


def test_every_name_leads_to_one_device():
    seen: dict[str, str] = {}
    for device in CATALOGUE.devices.values():
        for name in {device.id, device.name, *device.aliases}:
            plain = "".join(c for c in name.casefold() if c.isalnum())
            assert seen.setdefault(plain, device.id) == device.id, name


def test_all_devices_and_figures_have_sources():
    assert len(CATALOGUE.devices) == 115
    for device in CATALOGUE.devices.values():
        for name, field in device.fields.items():
            figures = [*([field.first] if field.first else []), *field.others]
            assert figures, (device.id, name)
            for one in figures:
                assert one.sources, (device.id, name)
                assert one.trust in TRUST
        assert set(device.route) == {"torch", "onnxruntime", "vllm"}, device.id


def test_every_source_is_used_and_says_where_and_when():
    table = tomllib.loads(BUILT_IN.read_text())
    used = {
        key
        for device in table["device"].values()
        for entries in device.values()
        if isinstance(entries, list)
        for entry in entries
        if isinstance(entry, list) and len(entry) > 1
        for key in entry[1].split()
    }
    assert used == set(table["source"])
    for key, source in table["source"].items():
        assert source["url"].startswith("https://") or source["url"] == "unknown", key
        known_place = source["url"] != "unknown"
        assert known_place or source["trust"] == "unverified", f"{key} is trusted without an address"


def test_a_figure_whose_sources_have_no_address_is_shown_as_unverified():
    marked = []
    for device in CATALOGUE.devices.values():
        for name, field in device.fields.items():
            figures = [*([field.first] if field.first else []), *field.others]
            for one in figures:
                if all(source.url == "unknown" for source in one.sources):
                    assert one.trust == "unverified", (device.id, name)
            if field.first in figures and name in SHOWN and field.first.trust == "unverified":
                marked.append(short_value(device, name))
                shown = " ".join(" ".join(device_lines(device)).split())
                assert f"{name}: {field.first.value:.8g} (unverified: " in shown, (device.id, name)
    assert len(marked) > 100
    assert all(text.rstrip("~").endswith("*") for text in marked)
    assert short_value(CATALOGUE.find("a100"), "memory_gb") == "80"


def test_where_surveys_stand_is_known():
    surveys = {key: one.url for key, one in CATALOGUE.sources.items() if key.startswith("SURV-")}
    assert len(surveys) == 10
    assert all(url.endswith("/hw-architecture.md") for url in surveys.values())
    without = {key for key, one in CATALOGUE.sources.items() if one.url == "unknown" and not one.is_own}
    assert without == {"CALC", "CHANNELS", "COLL", "GPULAND", "HEADLINE", "PAGES", "UNNAMED"}


@pytest.mark.parametrize(
    ("name", "field", "value", "trust"),
    [
        ("a100", "bandwidth_gb_per_s", 2039, "vendor"),
        ("h100", "fp8_tflops", 1979, "vendor"),
        ("h20", "f16_tflops", 148, "list"),
        ("ascend_910", "f16_tflops", 256, "unverified"),
        ("ironwood", "bandwidth_gb_per_s", 7380, "vendor"),
        ("inferentia2", "bandwidth_gb_per_s", 880, "vendor"),
        ("pi 5", "bandwidth_gb_per_s", 17.1, "list"),
        ("dgx spark", "bandwidth_gb_per_s", 273, "unverified"),
        ("ascend_910c", "bf16_tflops", 752, "paper"),
        ("910C", "memory_gb", 128, "paper"),
        ("l20", "tdp_w", 275, "list"),
        ("a10", "year", 2020, "list"),
        ("h20", "memory_gb", 96, "list"),
        ("graviton4", "bandwidth_gb_per_s", 537.6, "list"),
        ("xeon_spr", "bandwidth_gb_per_s", 307.2, "list"),
    ],
)
def test_a_figure_has_its_value_and_trust(name, field, value, trust):
    if name == "dgx spark":
        name = "dgx_spark_gb10"
    device = CATALOGUE.find(name)
    assert (device.value(field), device.trust(field)) == (value, trust)


@pytest.mark.parametrize(
    ("device", "field"),
    [
        ("v100_sxm2_32gb", "llc_mb"),
        ("h100_nvl", "fp8_tflops"),
        ("rtx_5090", "fp4_tflops"),
        ("m1_max", "f32_tflops"),
        ("epyc_9005", "bandwidth_gb_per_s"),
        ("kunpeng_920", "bandwidth_gb_per_s"),
        ("enflame_i20", "bf16_tflops"),
        ("kunlun_p800", "bandwidth_gb_per_s"),
        ("zixiao_c100", "memory_gb"),
        ("epyc_9004", "f32_tflops"),
    ],
)
def test_what_was_only_recalled_or_never_published_is_unknown(device, field):
    assert CATALOGUE.find(device).value(field) is None
    assert CATALOGUE.find(device).trust(field) == "unknown"


def test_values_in_conflict_stand_side_by_side():
    fields = CATALOGUE.find("ascend_910b").fields
    assert {one.value for one in fields["bandwidth_gb_per_s"].others} >= {400, 800, 900, 1228}
    assert [one.value for one in CATALOGUE.find("kunlun_p800").fields["bandwidth_gb_per_s"].others] == [
        1600,
        2400,
    ]
    assert [o.value for o in CATALOGUE.find("b300").fields["int8_tops"].others] == [4500]


def test_links_count_lanes_and_neighbours():
    a100 = CATALOGUE.find("a100")
    assert a100.host_bytes_per_s == pytest.approx(16 * 1.969e9)
    assert a100.peer_bytes_per_s == 300e9
    assert CATALOGUE.find("raspberry_pi5").host_bytes_per_s == pytest.approx(0.5e9)
    assert CATALOGUE.find("l40s").peer_bytes_per_s == CATALOGUE.find("l40s").host_bytes_per_s
    assert CATALOGUE.find("m4").host_bytes_per_s is None


def test_a_peak_falls_back_to_the_unit_that_would_do_it():
    assert CATALOGUE.find("a100").peak("fp8") == ("bf16", 312e12)
    assert CATALOGUE.find("h100").peak("fp8") == ("fp8", 1979e12)
    assert CATALOGUE.find("v100").peak("bf16") == ("f16", 125e12)
    assert CATALOGUE.find("m4").peak("bf16") is None
    assert CATALOGUE.find("h20").ridge == pytest.approx(37)


@pytest.mark.parametrize(
    ("name", "near"),
    [("H1000", "H100"), ("ascend 910d", "Ascend 910"), ("4090", "RTX 4090"), ("rtx4900", "RTX 4090")],
)
def test_an_unknown_device_is_refused_with_the_nearest(name, near):
    with pytest.raises(HardwareError) as error:
        CATALOGUE.find(name)
    assert f"unknown device {name!r}; nearest: " in str(error.value)
    assert near.casefold() in str(error.value).casefold()


def test_a_name_like_no_other_says_where_all_are():
    with pytest.raises(HardwareError, match="`membound hardware` lists all"):
        CATALOGUE.find("%%%")


@pytest.mark.parametrize(
    ("name", "devices"),
    [("Hygon", 4), ("Cambricon", 3), ("Enflame", 4), ("MetaX", 4), ("Biren", 4), ("Innosilicon", 1), ("Jingjiawei", 2),
     ("Iluvatar", 3), ("Moore Threads", 3), ("nowhere", 0), ("", 0)],
)  # fmt: skip
def test_a_vendor_is_all_its_devices(name, devices):
    assert len(CATALOGUE.of_vendor(name)) == devices
    if devices:
        with pytest.raises(HardwareError, match="is a vendor; its devices: "):
            CATALOGUE.find(name)


@pytest.mark.parametrize(
    ("name", "devices"),
    [("EPYC", ["epyc_7003", "epyc_9004", "epyc_9005"]), ("TPU v5", ["tpu_v5e", "tpu_v5p"]), ("gaudi", ["gaudi2", "gaudi3"]),
     ("Kunlun", ["kunlun_k200", "kunlun_r200", "kunlun_p800"]), ("RISC-V", ["sg2042", "sg2044", "hifive_p550", "xuantie_c950"]),
     ("Hygon DCU", ["hygon_z100", "hygon_z100l", "hygon_k100_ai", "hygon_bw1000"]),
     ("NVIDIA A100", ["a100_sxm_40gb", "a100_sxm_80gb", "a100_pcie_80gb"])],
)  # fmt: skip
def test_a_family_is_all_its_devices(name, devices):
    assert [d.id for d in CATALOGUE.all_of(name)] == devices
    with pytest.raises(HardwareError, match=f"is several devices, name one: {', '.join(devices)}"):
        CATALOGUE.find(name)


def test_a_name_of_one_device_is_that_device_alone():
    assert [d.id for d in CATALOGUE.all_of("Ascend 910")] == ["ascend_910"]
    assert [d.id for d in CATALOGUE.all_of("Intel Gaudi 2")] == ["gaudi2"]
    assert CATALOGUE.of_family("h") == []
    with pytest.raises(HardwareError, match="unknown device 'H1000'"):
        CATALOGUE.all_of("H1000")


def own(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_catalogue(path)


def test_a_file_of_ones_own_adds_devices_and_corrects_figures(tmp_path):
    found = own(
        tmp_path,
        '[device.mine]\nkind = "gpu"\nbandwidth_gb_per_s = 900\npcie = "4 x8"\n'
        "[device.kunlun_p800]\nbandwidth_gb_per_s = 2400\n",
    )
    assert len(found.devices) == 116
    assert found.find("mine").bandwidth_bytes_per_s == 900e9
    assert found.find("mine").trust("bandwidth_gb_per_s") == "unverified"
    assert found.find("mine").host_bytes_per_s == pytest.approx(8 * 1.969e9)
    kunlun = found.find("P800")
    assert (kunlun.value("bandwidth_gb_per_s"), kunlun.value("memory_gb"), kunlun.kind) == (
        2400,
        96,
        "accelerator",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "bandwidth_gb_per_s = 900e9",
            "= 9e+11 is no figure in GB/s (5 to 3e+07); written as bytes a second",
        ),
        ("bandwidth_gb_per_s = 900_000_000_000", "Then it is 900"),
        ("bandwidth_gb_per_s = 0.9", "written in thousands? Then it is 900"),
        ("memory_gb = 48e9", "Then it is 48"),
        ("bandwidth_gb_per_s = 900_000\nmemory_gb = 48", "of 48 GB; written in MB/s? Then it is 900"),
        ("bandwidth_gb_per_s = 900_000", "of a memory whose size is unknown; written in MB/s?"),
        ("f16_tflops = 180e12", "written as single operations? Then it is 180"),
        ("memory_gb = -1", "= -1 is no figure in GB"),
        ('memory_gb = "48 GB"', "'48 GB' is not a number of GB"),
        ("memory_gb = true", "True is not a number"),
        ("memory_gb = nan", "nan is no figure in GB"),
        (
            "bandwidth_bytes_per_s = 900",
            "unknown field bandwidth_bytes_per_s; did you mean bandwidth_gb_per_s?",
        ),
        ("colour = 3", "unknown field colour"),
        ('pcie = "five"', "'five' is no generation and lanes"),
        ("memory_gb = []", "is an empty list"),
        ("memory_gb = [48]", '48 is not [value, "sources", "remark"]'),
        ('memory_gb = [[48, "NOWHERE"]]', "no source is called NOWHERE"),
        ("memory_gb = " + "9" * 400, "9... is no figure in GB"),
        ('pcie = "5 x' + "9" * 5000 + '"', "is no generation and lanes"),
        ('pcie = "5 x\u0663"', "is no generation and lanes"),
        ('chips_per_package = "two"', "chips_per_package = 'two' is not a whole number from 1 to 1024"),
        ("chips_per_package = 0", "chips_per_package = 0 is not a whole number"),
        ("aliases = 5", "aliases = 5 is not a list of texts"),
        ("aliases = [[]]", "an entry of aliases = [] is not text"),
        ('lacks = "fp8"', "lacks = 'fp8' is not a list of texts"),
        ("route = [1, 2]", "route = [1, 2] is not a table of texts"),
        ("name = 1979-05-27", "name = datetime.date(1979, 5, 27) is not text"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field_and_what_it_would_be(tmp_path, text, said):
    with pytest.raises(HardwareError) as error:
        own(tmp_path, f"[device.mine]\n{text}\n")
    assert "mine.toml: device mine" in str(error.value)
    assert said in str(error.value)


def test_mb_for_a_known_device_are_told_and_sram_is_believed(tmp_path):
    with pytest.raises(
        HardwareError, match=r"device h100_sxm: .* of 80 GB; written in MB/s\? Then it is 3350"
    ):
        own(tmp_path, "[device.h100_sxm]\nbandwidth_gb_per_s = 3_350_000\n")
    found = own(tmp_path, "[device.sram]\nbandwidth_gb_per_s = 150_000\nmemory_gb = 2\n")
    assert found.find("sram").bandwidth_bytes_per_s == 150e12
    assert found.find("cerebras_wse3").value("bandwidth_gb_per_s") == 21e6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device = 3", "has no device"),
        ("", "has no device"),
        ("[device]\nmine = 3", "is not a section"),
        ("[device.mine", "is not TOML"),
        ("a = " + "9" * 5000, "is not TOML: Exceeds the limit"),
        ("a = " + "[" * 100_000, "is nested too deeply"),
        ('[source.X]\ntitle = "x"\n[device.a]\nmemory_gb = 4', "source X needs title, url, date, and trust"),
    ],
)
def test_a_file_without_devices_is_refused(tmp_path, text, said):
    with pytest.raises(HardwareError, match=said):
        own(tmp_path, text)


def test_the_ranges_admit_every_figure_that_is_known():
    for device in CATALOGUE.devices.values():
        for field in RANGES:
            value = device.value(field)
            assert value is None or RANGES[field][0] <= value <= RANGES[field][1]
    assert set(PEAKS.values()) < set(RANGES)
