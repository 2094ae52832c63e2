"""The tables of the benchmarks' pages hold the recorded figures."""

import re
from pathlib import Path

import pytest

from benchmarks import losses, report, run, surface, tpu_programs, train_step

ROOT = Path(__file__).parents[1]
RECORDED = report.read(run.RECORDED)
AVX2, AVX512 = "avx2", "avx512f"


def reports(benchmark, **wanted):
    """The recorded reports of a benchmark with these values."""
    return [
        each for each in RECORDED
        if each["benchmark"] == benchmark and all(each[k] == v for k, v in wanted.items())
    ]  # fmt: skip


def figures(benchmark, **wanted):
    """Rows of a recorded report by case (if there are several) and name."""
    rows = reports(benchmark, **wanted)[0]["rows"]
    cases = {row.get("case") for row in rows}
    return {(row["case"], row["name"]) if len(cases) > 1 else row["name"]: row for row in rows}


def tables(page):
    """The cells of each table's rows, by the first cell of its header."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", (ROOT / page).read_text(), re.M):
        header, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        found[header[0]] = {row[0]: row[1:] for row in rows}
    return found


PAGE = tables("benchmarks/RESULTS.md")
HEADLINE = tables("benchmarks/README.md")["time of others relative to jaxseg"]


def same(cells, values):
    """Whether cells show these values, as precisely as they are written."""
    for cell, value in zip(cells, values, strict=True):
        if value is None:
            assert cell == "", cell
            continue
        wanted = value if isinstance(value, tuple) else (value,)
        shown = re.findall(r"\d[\d,]*\.?\d*", cell)
        assert len(shown) == len(wanted), cell
        for text, number in zip(shown, wanted, strict=True):
            digits = len(text.partition(".")[2])
            assert float(text.replace(",", "")) == round(number, digits), f"{cell}: {number}"


def get(rows, key, value="relative_time"):
    return rows.get(key, {}).get(value)


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md", "benchmarks/RESULTS.md"])
def test_columns_name_the_version_that_was_measured(page):
    (header,) = set(re.findall(r".*AVX2, version.*", (ROOT / page).read_text()))
    measured = dict(re.findall(r"(AVX2|AVX-512), version ([\d.]+)", header))
    for benchmark in ("train_step", "inference", "surface"):
        for name, vectors in (("AVX2", AVX2), ("AVX-512", AVX512)):
            (each,) = reports(benchmark, vectors=vectors)
            assert each["version"].startswith(measured[name])


def test_the_headline_ratios_are_recorded():
    for line, cells in HEADLINE.items():
        what, _, name = line.partition(", ")
        benchmark = what.split(" 512")[0].replace("surface distances", "surface").replace(" ", "_")
        convention = "surface-distance" if name == "surface-distance" else "monai"
        case = f"two lungs, 512 x 512, {convention} convention"
        key: object = (case, name) if benchmark == "surface" else name
        same(cells, [get(figures(benchmark, vectors=each), key) for each in (AVX2, AVX512)])
    assert len(HEADLINE) == 8


def test_inference_is_recorded():
    both = [figures("inference", vectors=vectors) for vectors in (AVX2, AVX512)]
    shown = PAGE["time relative to jaxseg, 4 images"]
    assert set(shown) == set(both[0]) - {"jaxseg"}
    for name, cells in shown.items():
        same(cells, [get(rows, name) for rows in both])


def test_losses_are_recorded():
    rows = figures("losses", vectors=AVX2)
    for case, cells in PAGE["loss with gradient, 16 x 256 x 256"].items():
        ours, theirs = rows[case, "jaxseg"], rows[case, "MONAI"]
        same(cells, [1e3 * ours["seconds"], theirs["relative_time"]])


def test_surface_distances_are_recorded():
    rows = figures("surface", vectors=AVX2)
    for masks, cells in PAGE["64 pairs, AVX2"].items():
        values = []
        for convention, name in (("monai", "MONAI"), ("surface-distance", "surface-distance")):
            case = f"{masks}, {convention} convention"
            values.append(1e3 * rows[case, "jaxseg"]["seconds"])
            values.append(rows[case, name]["relative_time"])
        same(cells, values)


def test_tpu_programs_are_recorded():
    recorded = {}
    for each in reports("tpu_programs"):
        slice_ = each["settings"]["topology"].removeprefix("v5e:")
        for row in each["rows"] if not each["settings"]["augment"] else ():
            name = f"{slice_}, {row['images_per_chip']:.0f} images a chip"
            recorded[name] = (each["version"], row)
    shown = PAGE["v5e, bfloat16"]
    assert shown.keys() == recorded.keys()
    for name, (version, traffic, temporary, collectives, sent) in shown.items():
        assert (version, collectives) == (recorded[name][0], recorded[name][1]["collectives"])
        keys = ("traffic_MB_per_image", "temporary_MB_per_image", "sent_MB_per_chip")
        same([traffic, temporary, sent], [recorded[name][1][key] for key in keys])
    documented = tables("docs/explanation/tpu_batch_sizes.md")["v5e, bfloat16"]
    assert documented == {name: cells[1:] for name, cells in shown.items()}


@pytest.mark.parametrize(
    ("benchmark", "header", "keys"),
    [
        ("train_step", "16 images, AVX2",
         ["seconds", ("fastest", "slowest"), "relative_time", "compile_seconds", "peak_MB"]),
        ("input_pipeline", "1,100 images of 256 x 256",
         ["images_per_second", ("slowest_rate", "fastest_rate"), "relative_time", "peak_MB"]),
        ("startup", "process", ["seconds"]),
        ("predict", "1,100 images",
         ["seconds", "start_seconds", "images_per_second", "upper_bound",
          "fraction_of_upper_bound"]),
        ("full_release", "step", ["seconds", "processor_seconds", "peak_MB"]),
    ],
)  # fmt: skip
def test_tables_of_a_row_for_each_name_are_recorded(benchmark, header, keys):
    rows = figures(benchmark, **({} if benchmark == "full_release" else {"vectors": AVX2}))
    assert list(PAGE[header]) == list(rows)
    for name, cells in PAGE[header].items():
        values = [
            tuple(rows[name][each] for each in key) if isinstance(key, tuple) else rows[name][key]
            for key in keys
        ]
        same(cells, values)


def test_the_augmentation_for_tpus_is_recorded():
    (rows,) = [each["rows"] for each in reports("tpu_programs") if each["settings"]["augment"]]
    keys = ("traffic_MB_per_image", "GFLOP_per_image", "temporary_MB_per_image")
    for row, (name, cells) in zip(rows, PAGE["v5e, 16 images of 256 x 256"].items(), strict=True):
        assert row["name"] == name
        same(cells, [row[key] for key in keys])


def test_the_readmes_table_is_recorded():
    shown = tables("README.md")["time of others relative to jaxseg"]
    assert {line: cells for line, cells in shown.items() if line in HEADLINE} == HEADLINE
    rows = figures("losses", vectors=AVX2)
    for line, case in (
        ("Dice loss with gradient, one class, MONAI", "soft_dice, K = 1"),
        ("Dice loss with gradient, four classes, MONAI", "soft_dice, K = 4"),
        ("Hausdorff loss with gradient, MONAI", "hausdorff_dt, K = 1"),
    ):
        same(shown[line], [rows[case, "MONAI"]["relative_time"], None])


def test_every_report_says_what_was_measured_when_and_with_which_version():
    for each in RECORDED:
        assert {"command", "date", "version", "settings", "rows"} <= set(each)
        module = each["command"].split()[2]
        assert module == f"benchmarks.{each['benchmark']}"
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_recorded_rows_have_the_names_of_what_is_measured():
    known = {
        "train_step": train_step.IMPLEMENTATIONS,
        "inference": train_step.IMPLEMENTATIONS,
        "losses": losses.IMPLEMENTATIONS,
        "surface": surface.IMPLEMENTATIONS,
    }
    for each in RECORDED:
        names = {row["name"] for row in each["rows"]}
        if each["benchmark"] in known:
            assert names <= {implementation.name for implementation in known[each["benchmark"]]}
            assert run.ratios(each)
        elif each["benchmark"] == "tpu_programs":
            assert set().union(*each["rows"]) <= set(tpu_programs.COLUMNS)


def test_the_page_names_every_command():
    text = (ROOT / "benchmarks/README.md").read_text()
    for name in (*run.NAMES, "input_pipeline", "predict", "tpu_programs", "survival"):
        assert f"benchmarks.{name}" in text
