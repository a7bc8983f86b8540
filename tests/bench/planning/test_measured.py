import csv

import pytest

from membound.bench.planning.measured import BUILT_IN, MeasuredError, measured_rows
from membound.results.predict.catalogue import load_catalogue

CATALOGUE = load_catalogue()
ROWS = {row.id: row for row in measured_rows(CATALOGUE)[0]}


def test_a_row_in_tokens_a_second_by_hand():
    row = ROWS["15"]
    assert row.seconds == pytest.approx(1 / 53.18)
    assert row.offer.bandwidth_bytes_per_s == 2039e9
    assert (row.demand.storage, row.group, row.demand.layers) == ("float", "single", 32)
    assert row.demand.weights_bytes == pytest.approx(15.0e9, rel=0.01)
    assert not row.offer.graphs


@pytest.mark.parametrize(
    ("id_", "seconds", "group", "devices"),
    [
        ("44", 1 / 101.86, "single", 0.5),
        ("82", 8.578e9 / 260e9, "single", 1),
        ("37", 1 / 168.84, "parallel", 2),
        ("93", 32 / 798, "served", 8),
        ("101", 0.0474, "served", 1),
        ("104", 0.03247, "parallel", 12),
    ],
)
def test_units_groups_and_parts_of_devices(id_, seconds, group, devices):
    row = ROWS[id_]
    assert row.seconds == pytest.approx(seconds, rel=2e-3)
    assert (row.group, row.offer.devices) == (group, devices)


def test_files_with_a_size_stream_it():
    assert ROWS["57"].demand.weights_bytes == 2.02e9
    assert ROWS["57"].offer.graphs


def test_engines_and_prompts():
    assert ROWS["101"].offer.served
    assert not ROWS["57"].offer.served
    assert ROWS["93"].demand.prompt_flops == pytest.approx(2 * 32 * 403.7e9, rel=0.01)
    assert ROWS["101"].demand.prompt_flops == 0
    assert ROWS["47"].demand.mixture


def test_what_is_left_out_has_a_reason():
    refused = dict(measured_rows(CATALOGUE)[1])
    assert refused["116"] == "the bandwidth of the device is unknown"
    assert "not stated" in refused["120"]


HEADER = "id,model,params_b,weights,batch_or_concurrency,input_tokens,output_tokens,hardware,n_devices,engine,metric,value,unit,kind,source,date"


def rows_of(tmp_path, *lines):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return measured_rows(CATALOGUE, path)


GOOD = "1,Llama-3-70B,70.6,gguf Q4_K_M,1,short,1024,rtx_3090,2,llama.cpp,generation speed,16.29,tok/s,single-stream decode,x,2024-05-12"


def test_a_file_without_our_own_columns_is_read(tmp_path):
    rows, refused = rows_of(tmp_path, GOOD)
    assert (rows[0].device, rows[0].group, refused) == ("rtx_3090", "parallel", [])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rtx_3090", "rtx_3099", "unknown device 'rtx_3099'; nearest: RTX 3090"),
        ("16.29", "fast", "value 'fast' is not a number"),
        ("16.29", "0", "value 0 must be above 0"),
        ("tok/s", "furlongs", "unit 'furlongs' is not one of"),
        ("Q4_K_M", "Q9", "weights 'gguf Q9' are in no known format"),
        ("Llama-3-70B,70.6", "Nothing-9B,9 total / 1 active", "unknown model 'nothing-9b'"),
        (",1,short", ",many,short", "batch_or_concurrency 'many' is not a number"),
        ("16.29", "nan", "value nan must be above 0"),
        ("16.29", "1e999", "value inf must be above 0 and at most 1e+15"),
        (",1,short", ",1e999,short", "batch_or_concurrency inf must be above 0"),
        (",1,short", ",0,short", "batch_or_concurrency 0 must be above 0"),
        ("rtx_3090,2", "rtx_3090,-2", "n_devices -2 must be above 0"),
        ("rtx_3090,2", "rtx_3090," + "9" * 300, "n_devices 1e+300 must be above 0"),
        ("short,1024", "short," + "9" * 400, "is no number of tokens"),
        ("Q4_K_M", "Q4_K_M (9999999 GB)", "a file of no size that a model has"),
        ("Llama-3-70B,70.6", "Nothing-9B,1e30", "params_b 1e+30 must be above 0 and at most 100000"),
        ("Llama-3-70B,70.6", "Nothing-9B,nan", "params_b nan must be above 0"),
        (",1024,rtx_3090", "", "unknown device"),
    ],
)
def test_a_row_that_cannot_be_used_is_listed_with_the_reason(tmp_path, old, new, said):
    rows, refused = rows_of(tmp_path, GOOD, GOOD.replace(old, new).replace("1,", "2,", 1))
    assert len(rows) == 1
    assert said in dict(refused)["2"]


def test_a_model_without_a_known_shape_has_one_of_its_size(tmp_path):
    """9.24 billion weights: 34 layers, whose bytes are those of the weights."""
    rows, _ = rows_of(tmp_path, GOOD.replace("Llama-3-70B,70.6,gguf Q4_K_M", "Grok-2-9B,9.24,f16"))
    assert "by its size" in rows[0].demand.work
    assert rows[0].demand.layers == 34
    assert rows[0].demand.weights_bytes == pytest.approx(2 * 9.24e9, rel=1e-4)
    (known,) = rows_of(tmp_path, GOOD.replace("Llama-3-70B", "Llama-3.2-1B-Instruct"))[0]
    assert known.demand.layers == 16


def test_one_die_is_a_part_of_a_package(tmp_path):
    line = GOOD.replace("rtx_3090,2", "mi250x,1").replace(",x,2024", ",x,2024")
    path = tmp_path / "rows.csv"
    path.write_text(f"{HEADER},note\n{line},one GCD\n{line},\n")
    one, both = measured_rows(CATALOGUE, path)[0]
    assert (one.offer.devices, both.offer.devices) == (0.5, 1)


def test_a_file_without_rows_or_columns_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id,model\n1,x\n")
    with pytest.raises(MeasuredError, match="lacks the columns params_b, weights"):
        measured_rows(CATALOGUE, path)
    with pytest.raises(MeasuredError, match="no row that can be used"):
        rows_of(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b'"' + b"9" * 200_000 + b'"', b"id\rmodel,x\n", b""])
def test_what_is_no_csv_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "rows.csv"
    for before in (b"", HEADER.encode() + b"\n"):
        path.write_bytes(before + content)
        with pytest.raises(
            MeasuredError, match=r"is no CSV in UTF-8|lacks the columns|no row that can be used"
        ):
            measured_rows(CATALOGUE, path)


def test_every_row_says_where_it_is_from():
    with BUILT_IN.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 98
    assert all(line["source"].startswith("https://") or line["source"] == "unknown" for line in lines)
    assert all(line["date"] for line in lines)
