"""`hardware`, `predict`, `cost` and `plan` on the command line: what they print, and one line for bad input."""

import json

import pytest

from membound.bench import cli


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as done:
        cli.main([str(one) for one in arguments])
    captured = capsys.readouterr()
    return done.value.code, captured.out, captured.err


STEP = "step:model=llama-3-8b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hardware", "h1000"), "unknown device 'h1000'; nearest: H100"),
        (("hardware", "--where", "memory_gb"), "is no condition; write one such as memory_gb>=80"),
        (("hardware", "--sort", "speed"), "unknown figure 'speed'"),
        (("hardware", "--hardware", "none.toml"), "none.toml: No such file or directory"),
        (("hardware", "--here", "latest"), "there are no runs in results/runs yet"),
        (("predict", STEP), "give a WORK and --on DEVICES, or --validate"),
        (("predict", STEP, "--on", "h1000"), "unknown device 'h1000'"),
        (("predict", "step:model=llama-9", "--on", "h100"), "unknown model 'llama-9'; nearest: llama-"),
        (("predict", "stop:x=1", "--on", "h100"), "unknown work 'stop'"),
        (
            ("predict", STEP, "--on", "mlu590"),
            "the bandwidth of mlu590 is unknown (sources say 1228 or 2000 or 2760 GB/s)",
        ),
        (("predict", "step:model=llama-3-70b", "--on", "l4", "--count", "1"), "does not fit on 1 × l4"),
        (("predict", "step:model=kimi-k2,weight=f32,batch=99999", "--on", "t4"), "fits on no 64 t4"),
        (("predict", STEP, "--on", "h100", "--batch", "8..2"), "'8..2' runs backwards"),
        (("predict", STEP, "--on", "h100", "--batch", "x"), "'x' is not a whole number"),
        (("predict", STEP, "--on", "h100", "--batch", "0"), "0 must be from 1"),
        (("predict", STEP, "--on", "h100", "--offload", "1.5"), "1.5 must be from 0 to 1"),
        (("predict", STEP, "--on", "h100", "--link", "0"), "0 must be above 0"),
        (("predict", STEP, "--on", "h100", "--link", "1e308"), "1e+308 must be above 0 and at most 1e+30"),
        (("predict", STEP, "--on", "h100", "--link", "nan"), "nan must be above 0"),
        (("cost", STEP, "--on", "h100", "--tokens-per-day", "1e300"), "must be above 0 and at most 1e+30"),
        (("cost", STEP, "--on", "h100", "--measured", "1e400:1"), "batch and milliseconds must be above 0"),
        (("cost", STEP, "--on", "h100", "--input-tokens", "1e308"), "input tokens = 1e+308 is impossible"),
        (("predict", STEP, "--on", "h100", "--count", "0"), "0 must be from 1"),
        (("predict", "--validate", "--rows", "none.csv"), "none.csv: No such file or directory"),
        (("cost", STEP), "give a WORK and --on DEVICES (membound hardware lists them)"),
        (("predict", "h100"), "'h100' is no work such as step:model=llama-3-8b"),
        (("predict", STEP, STEP, "--on", "h100"), "one work at a time"),
        (("cost", STEP, "--on", "h100", "--price", "0"), "price = 0 is impossible: it must be above 0"),
        (("cost", STEP, "--on", "h100", "--utilisation", "1.2"), "utilisation = 1.2 is impossible"),
        (("cost", STEP, "--on", "l4"), "no rent price of l4 is known; give one: --price USD"),
        (("cost", STEP, "--on", "h100", "--prices", "lease"), "'lease' is not one of rent, spot, contract"),
        (("cost", STEP, "--on", "h100", "--today", "soon"), "'soon' is not a date such as"),
        (("cost", STEP, "--on", "h100", "--api", "phi-4"), "no API price of 'phi-4' is known"),
        (("cost", STEP, "--on", "h100", "--api-price", "1"), "--api-price '1' is not IN/OUT"),
        (("cost", STEP, "--on", "h100", "--measured", "8"), "'8' is no measured point"),
        (("cost", STEP, "--on", "h100", "--input-tokens", "-1"), "input tokens = -1 is impossible"),
        (("cost", "linear:n=64,k=64", "--on", "h100"), "only steps are priced"),
        (("plan", "--model", "x", "--tokens-per-day", "1e9", "--on", "h100"), "unknown model 'x'"),
        (("plan", "--model", "llama-3-8b", "--tokens-per-day", "0"), "0 must be above 0"),
        (
            ("plan", "--model", "llama-3-8b", "--tokens-per-day", "1e9", "--weights", "q9"),
            "unknown format 'q9'; known: f32",
        ),
        (("plan", "--model", "llama-3-8b", "--tokens-per-day", "1e9", "--price", "2"), "name it with --on"),
        (
            ("plan", "--model", "llama-3-8b", "--tokens-per-day", "1e9", "--tpot", "0.01", "--on", "h100"),
            "nothing serves llama-3-8b within the limits; h100_sxm takes",
        ),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_bad_input_is_one_line_and_status_2(capsys, arguments, said):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_wrong_unit_in_a_file_is_told_with_what_it_would_be(capsys, folder):
    (folder / "mine.toml").write_text("[device.mine]\nbandwidth_gb_per_s = 900e9\nmemory_gb = 48\n")
    code, out, err = run(capsys, "predict", STEP, "--on", "mine", "--hardware", "mine.toml")
    assert (code, out) == (2, "")
    assert "bandwidth_gb_per_s = 9e+11 is no figure in GB/s" in err
    assert "Then it is 900" in err


def test_hardware_compares_two(capsys):
    code, out, _ = run(capsys, "hardware", "ascend_910", "a100")
    assert code == 0
    flat = " ".join(out.split())
    assert (
        "Ascend 910 (2019) is 82 % of an A100 SXM4 80GB in f16*, 60 % in bandwidth* and 40 % in memory*"
        in flat
    )


def test_hardware_lists_a_family(capsys):
    code, out, _ = run(capsys, "hardware", "EPYC", "Graviton4")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:5]] == [
        "epyc_7003",
        "epyc_9004",
        "epyc_9005",
        "graviton4",
    ]


def test_what_others_say_of_a_format_that_a_device_lacks_is_shown(capsys):
    code, out, _ = run(capsys, "hardware", "groq_lpu_v1")
    assert code == 0
    assert "fp8_tflops: the matrix unit has no fp8; others: 750 (unverified: EVO, the int8" in out


def test_hardware_as_json_has_every_source(capsys):
    code, out, _ = run(capsys, "hardware", "--where", "kind=tpu", "--sort", "bandwidth", "--json")
    found = json.loads(out)
    assert code == 0
    assert [one["id"] for one in found] == ["tpu_v7x", "tpu_v5p", "tpu_v6e", "tpu_v4", "tpu_v5e"]
    figure = found[0]["fields"]["bandwidth_gb_per_s"]
    assert (figure["value"], figure["trust"]) == (7380, "vendor")
    assert figure["sources"][0]["url"].startswith("https://docs.cloud.google.com")


def test_all_devices_fit_the_screen(capsys):
    code, out, _ = run(capsys, "hardware")
    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    assert len([line for line in out.splitlines() if line.strip()]) > 114


def test_predict_as_json_has_all_three_models_and_their_records(capsys):
    code, out, _ = run(capsys, "predict", STEP, "--on", "l40s,a100", "--json")
    found = json.loads(out)
    assert code == 0
    assert [one["device"] for one in found] == ["l40s", "a100_sxm_80gb"]
    for one in found:
        assert set(one["models"]) == {"three terms", "bandwidth only", "FLOPs only"}
        for model in one["models"].values():
            low, high = model["interval_s"]
            assert low < model["time_s"] < high
            assert model["record"]["devices"] >= 8
    said = {m: found[0]["models"][m]["time_s"] > found[1]["models"][m]["time_s"] for m in found[0]["models"]}
    assert said == {"three terms": True, "bandwidth only": True, "FLOPs only": False}


def test_predict_names_the_pairs_on_which_models_disagree(capsys):
    code, out, _ = run(capsys, "predict", STEP, "--on", "h20", "h100")
    assert code == 0
    assert "they disagree: h20 is to h100_sxm in speed as" in out
    assert "record of decoding one sequence on one device" in out


def test_a_curve_has_its_knee_and_its_end(capsys):
    code, out, _ = run(capsys, "predict", STEP, "--on", "h100", "--batch", "1..4096")
    assert code == 0
    assert len([line for line in out.splitlines() if line.endswith("knee")]) == 1
    assert "the cache ends at batch 416" in out


def test_rows_of_ones_own_are_predicted_from_other_devices(capsys, folder):
    head = "id,model,params_b,weights,batch_or_concurrency,input_tokens,output_tokens,hardware,n_devices,engine,value,unit,kind,source,date"
    line = "x,Llama-3-8B,8.03,gguf Q4_K_M,1,short,1024,rtx_3090,1,llama.cpp,111.74,tok/s,single-stream decode,mine,2024-05-12"
    (folder / "rows.csv").write_text(f"{head}\n{line}\n{line.replace('rtx_3090', 'nowhere')}\n")
    code, out, _ = run(capsys, "predict", "--validate", "--rows", "rows.csv", "--json")
    found = json.loads(out)
    assert code == 0
    (row,) = [one for one in found["rows"] if one["model"] == "three terms"]
    assert row["measured_s"] == pytest.approx(1 / 111.74)
    assert abs(row["error"]) < 0.4
    assert found["left_out"][0]["reason"].startswith("unknown device 'nowhere'")


def test_cost_on_a_measured_point_as_json(capsys):
    code, out, _ = run(
        capsys, "cost", STEP, "--on", "h100", "--measured", "511:47.4", "--price", "2.95", "--utilisation", "1",
        "--input-tokens", "0", "--api-price", "0/0.08", "--json",
    )  # fmt: skip
    (found,) = json.loads(out)
    assert code == 0
    assert found["usd"] == pytest.approx(0.0760, abs=5e-5)
    assert found["break_even"]["utilisation"] == pytest.approx(0.95, abs=0.005)


def test_plan_as_json_is_ranked(capsys):
    code, out, _ = run(
        capsys, "plan", "--model", "llama-3-8b", "--tokens-per-day", "1e9", "--on", "h100,l40s", "--weights", "fp8",
        "--tpot", "50", "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    days = [one["usd_per_day"] for one in found]
    assert days == sorted(days)
    assert all(one["tpot_s"] <= 0.05 and one["tpot_factor"] > 1 for one in found)


PLAN = (
    "plan",
    "--model",
    "llama-3-70b",
    "--tokens-per-day",
    "2e9",
    "--today",
    "2026-11-29",
    "--on",
    "h100,mi300x",
)
LIMITED = (*PLAN, "--ttft", "2000", "--tpot", "50")


@pytest.mark.parametrize("owning", [(), ("--prices", "own", "--residual", "0.1", "--years", "3")])
def test_a_plan_fits_the_screen_and_says_what_each_figure_rests_on(capsys, owning):
    code, out, _ = run(capsys, *LIMITED, *owning)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "record of decoding several sequences together" in out
    assert "record of prompts, each device left out in turn" in out
    assert out.count("power_kw 1.73 kW") == 1
    assert ("residual 0.1: given" in out) == bool(owning)


def test_a_plan_has_the_racks_that_its_power_fills(capsys):
    _, out, _ = run(capsys, *LIMITED, "--rack-kw", "20", "--power-kw", "2")
    _, found, _ = run(capsys, *LIMITED, "--rack-kw", "20", "--power-kw", "2", "--json")
    first = json.loads(found)[0]
    assert first["kw"] == pytest.approx(2 * first["devices"])
    assert first["racks"] == -(-first["devices"] // 10)
    assert f"= {first['devices']} devices, {first['kw']:.4g} kW, {first['racks']} racks" in " ".join(
        out.split()
    )
    assert first["ttft_factor"] > 1


def test_an_option_without_effect_is_told(capsys):
    _, out, _ = run(capsys, *LIMITED, "--years", "3")
    assert "without effect here: years (of owning: --capex or --prices own)" in " ".join(out.split())
    _, out, _ = run(capsys, *LIMITED, "--years", "3", "--prices", "own")
    assert "without effect" not in out
    _, out, _ = run(capsys, "cost", STEP, "--on", "h100", "--residual", "0.1", "--rack-kw", "9", "--json")
    assert [one.split()[0] for one in json.loads(out)[0]["without_effect"]] == ["residual", "rack_kw"]


def test_residual_value_makes_an_owned_plan_cheaper(capsys):
    def day(*more):
        return json.loads(run(capsys, *PLAN, "--prices", "own", "--json", *more)[1])[0]["usd_per_day"]

    assert day("--residual", "0.5") < day("--residual", "0.1") < day("--residual", "0")
    assert day("--server-share", "2") > day("--server-share", "0.5")
