"""The benchmarks at tiny sizes: their results' form and content, not speed."""

import json
import os
from pathlib import Path

import pytest
import yaml

from wavedil import WavedilError
from wavedil.audio import Effect
from wavedil.audio.models.nam import NAM, LayerArray
from wavedil.bench import conv, data, effects, memory, numerics, render, run_benchmark, runner, sample, segment, train
from wavedil.cli import main


def check(result: dict) -> str:
    """Checks the keys of a result and returns its text."""
    json.dumps(result)
    assert {"machine", "versions", "commit", "rows"} <= result.keys()
    assert result["machine"]["cores"] >= 1 and result["versions"]["torch"]
    for row in result["rows"]:
        assert {"name", "unit", "median", "iqr", "ratio"} <= row.keys()
        assert row["median"] is None or row["median"] > 0
    text = render(result)
    assert all(row["name"] in text for row in result["rows"])
    return text


def test_conv():
    sizes = {"time": 80, "size": 6, "channels": 8, "dilations": (2,), "dilations_2d": (2,)}
    text = check(runner.describe("conv", "cpu") | conv.bench_conv("cpu", **sizes, rounds=2))
    assert "1-D k2 d2 bf16 training, ours" in text


def test_train_without_wavenet_vocoder(monkeypatch):
    monkeypatch.setattr(train, "_wavenet_vocoder", lambda *sizes: None)
    sizes = {"time": 60, "channels": 8, "skip_channels": 8, "dilations": (1, 2) * 2}
    result = runner.describe("train", "cpu") | train.bench_train("cpu", **sizes, rounds=2)
    text = check(result)
    assert "wavenet-vocoder fp32" in text and "not installed" in text
    assert [row["name"] for row in result["rows"] if row["median"] is None] == [
        "wavenet-vocoder fp32",
        "wavenet-vocoder bf16",
    ]
    # 4 layers of 8x16x2 + 8x8 + 8x8, and a head of 8x8 + 8x256; 2 x 60 samples, 6 operations each
    assert result["notes"][0].startswith(f"{(4 * 384 + 2112) * 120 * 6 / 1e9:.1f} GFLOP")


@pytest.mark.parametrize("before", [None, "1"])
def test_training_steps_without_triton(before, monkeypatch):
    """On a GPU these are rows of their own."""
    monkeypatch.delenv("WAVEDIL_TRITON", raising=False)
    if before:
        monkeypatch.setenv("WAVEDIL_TRITON", before)
    seen = []
    (row,) = train._without_triton({"bf16": lambda: seen.append(os.environ["WAVEDIL_TRITON"])})
    row.call()
    assert row.name == "wavedil without Triton bf16"
    assert seen == ["0"] and os.environ.get("WAVEDIL_TRITON") == before


def test_ratios_are_relative_to_the_first_of_each_group(monkeypatch):
    clock = iter([0, 4, 0, 2, 0, 1, 0, 3] * 2)
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(clock))
    names = [("slow", "a"), ("fast", "a"), ("alone", "b"), ("third", "b")]
    candidates = [runner.Candidate(name, lambda: None, group) for name, group in names]
    rows = runner.measure(candidates, rounds=2, device="cpu", unit="s", warm=0)
    assert [(row["median"], row["ratio"]) for row in rows] == [(4, 1), (2, 2), (1, 1), (3, 1 / 3)]


CASES = [
    numerics.Case(1, "float32", "channels_last", "dense", (2,), 3, 1),
    numerics.Case(2, "bfloat16", "contiguous", "depthwise", (3, 3), 2, 1),
    numerics.Case(2, "bfloat16", "contiguous", "grouped", (1, 3), 1, 2),
    numerics.Case(3, "float32", "channels_last", "depthwise x2", (2, 2, 2), 2, 1),
]


def test_numerics_in_separate_processes():
    result = runner.describe("numerics", "cpu") | numerics.bench_numerics("cpu", cases=CASES)
    check(result)
    assert [row["cases"] for row in result["rows"]] == [1, 2, 1]
    assert sum(row["wrong_torch"] + row["wrong_ours"] for row in result["rows"]) == 0
    assert result["notes"] == ["4 cases on cpu: torch is wrong in 0, wavedil in 0"]


def test_numerics_reports_wrong_numbers_and_crashes(monkeypatch):
    found = {
        "torch": [[1e-7] * 3, [1e-3, 1e-3, float("nan")], [1e-3, 2.0, 0.0], [1e-7] * 3],
        "ours": ["the process died here (status -6)", [1e-3] * 3, "unsupported", [1e-4] * 3],
    }
    monkeypatch.setattr(numerics, "_errors", lambda package, cases, device: found[package])
    result = runner.describe("numerics", "cpu") | numerics.bench_numerics("cpu", cases=CASES)
    assert result["notes"][-1] == "4 cases on cpu: torch is wrong in 2, wavedil in 2"
    assert result["wrong"] == [
        f"ours: {CASES[0]}: the process died here (status -6)",
        f"torch: {CASES[1]}: weight gradient is off by nan",
        f"torch: {CASES[2]}: input gradient is off by 2.0e+00",
        f"ours: {CASES[3]}: forward is off by 1.0e-04, input gradient is off by 1.0e-04, "
        "weight gradient is off by 1.0e-04",
    ]
    render(result)


def test_a_process_that_dies_is_recorded(monkeypatch):
    """The process dies at the second case, the next one at the last."""
    answers = iter([("[0, 0, 0]\n[0, 0", -6), ("[0, 0, 0]\n", -11)])

    def child(command, **options):
        stdout, status = next(answers)
        return numerics.subprocess.CompletedProcess(command, status, stdout, "")

    monkeypatch.setattr(numerics.subprocess, "run", child)
    results = numerics._errors("torch", CASES, "cpu")
    assert results[0] == results[2] == [0, 0, 0]
    assert results[1] == "the process died here (status -6)"
    assert results[3] == "the process died here (status -11)"


def test_errors():
    with pytest.raises(WavedilError, match="'speed' is unknown: expected one of conv, train, sample"):
        run_benchmark("speed")
    with pytest.raises(WavedilError, match="threads is 0: expected a positive integer"):
        run_benchmark("conv", threads=0)
    with pytest.raises(WavedilError, match="device 'cuda:99' is not available here"):
        run_benchmark("conv", device="cuda:99")


SMALL = (sample.Size("small", 8, 8, "1..4"), sample.Size("small + mel", 8, 8, "1..2", features=3))
VARIANTS = (sample.Size("small logistics", 8, 8, "1..4", distribution="logistics", components=2, sparsity=0.5),)
SHORT = {"numba": 200, "torch": 8, "wavenet-vocoder": 4, "WaveRNN": 400}


def test_sample(monkeypatch):
    monkeypatch.setattr(sample, "_compilations", list)  # takes minutes on a busy machine
    monkeypatch.setattr(sample, "matrix_product_limit", lambda dtype, device: 100.0)
    result = runner.describe("sample", "cpu") | sample.bench_sample(
        "cpu", sizes=SMALL, variants=VARIANTS, samples=SHORT, rounds=2
    )
    check(result)
    rows = {row["name"]: row for row in result["rows"]}
    ours = rows["small, 1 stream: numba fp32"]
    # 3 layers of 16x8x2 and 8x8 skip, two of them with 8x8 residual; a head of 8x8 and 8x256
    assert ours["gflops"] == pytest.approx(ours["median"] * 2 * (3 * 320 + 2 * 64 + 64 + 2048) / 1e9)
    assert ours["limit_share"]["fp32"] == pytest.approx(ours["gflops"] / 100)
    peer = rows["small, 1 stream: wavenet-vocoder"]
    assert ours["ratio"] == pytest.approx(
        ours["median"] / (peer["median"] or rows["small, 1 stream: torch fp32"]["median"])
    )
    assert {
        "small, 16 streams: numba bf16",
        "small, 64 streams: numba fp32",
        "small + mel, 16 streams: numba fp32",
        "small logistics, 1 stream: numba bf16",
    } < rows.keys()
    assert "x real time at 16 kHz" in result["notes"][0]


def test_the_ratio_of_rates_is_that_of_the_medians(monkeypatch):
    clock = iter([0, 4, 0, 2] * 2)
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(clock))
    candidates = [
        runner.Candidate("slow", lambda: None, amount=100),
        runner.Candidate("fast", lambda: None, amount=400),
    ]
    rows = runner.measure(candidates, rounds=2, device="cpu", unit="samples/s", warm=0)
    assert [(row["median"], row["ratio"]) for row in rows] == [(25, 1), (200, 8)]


def test_sample_without_the_peers(monkeypatch):
    monkeypatch.setattr(sample, "wavenet_vocoder", lambda *arguments: None)
    monkeypatch.setattr(sample, "wavernn", lambda *arguments: None)
    monkeypatch.setattr(sample, "_compilations", list)
    monkeypatch.setattr(sample, "matrix_product_limit", lambda dtype, device: 100.0)
    result = runner.describe("sample", "cpu") | sample.bench_sample(
        "cpu", sizes=SMALL[:1], variants=(), samples=SHORT, rounds=1
    )
    assert "small, 1 stream: wavenet-vocoder" in check(result)
    assert "wavenet-vocoder" not in " ".join(result["notes"])


def test_segment_equals_torchvision_and_runs_without_smp(monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setattr(segment, "_smp", lambda: None)
    small = {"size": 32, "num_classes": 3, "precisions": ("fp32",)}
    result = runner.describe("segment", "cpu") | segment.bench_segment("cpu", **small, rounds=1)
    check(result)
    missing = [row["name"] for row in result["rows"] if row["median"] is None]
    assert missing == [
        f"{group} {work} fp32, segmentation_models.pytorch"
        for group in ("DeepLab v3", "PSP")
        for work in ("inference", "training")
    ]
    assert [row["ratio"] for row in result["rows"] if row["name"].endswith(", torchvision")] == [1, 1]
    assert float(result["notes"][-1].split("differ by ")[1].split()[0]) < 1e-4


def test_codes_equal_those_of_the_definition_except_ties():
    from wavedil.bench import codes

    rows = codes.bench_codes("cpu", samples=300, channels=8, dilations={2: "1..8"})["rows"]
    assert len(rows) == 2 * len(codes.HEADS)
    for row in rows:
        assert row["median"] >= (300 if "softmax" in row["name"] else 290), row
        assert row.get("tie", 0) <= 1e-5, row


def test_memory_is_read_after_each_part_of_the_work(monkeypatch):
    monkeypatch.setattr(memory, "READINGS", 2)
    monkeypatch.setattr(memory.gc, "collect", lambda: 0)  # takes half a second beside the other tests
    amounts = memory.Amounts(0.05, 2, 0.05, 2, 1, 2)
    result = runner.describe("memory", "cpu") | memory.bench_memory("cpu", amounts=amounts)
    assert len(result["rows"]) == 6 and all(row["name"] in render(result) for row in result["rows"])
    for row in result["rows"]:
        before, warm, end = row["rss_mib"].values()
        assert 30 < before < 1e5 and warm > 30
        assert row["median"] == pytest.approx((end - warm) * 1024 / row["amount"], abs=1e-6)
    with pytest.raises(WavedilError, match="so use cpu"):
        memory.bench_memory("cuda")
    with pytest.raises(WavedilError, match="long is for the benchmark memory, not for conv"):
        run_benchmark("conv", long=True)


def test_data_readers_are_compared_with_training(tmp_path, capsys):
    recipe = yaml.safe_load((Path(__file__).parents[1] / "recipes/audio/pluck.yaml").read_text())
    network = recipe["model"]["init_args"]["network"]["init_args"]
    assert data.NETWORK == {name: value for name, value in network.items() if name != "sample_rate"}
    assert (data.CROP, data.BATCH) == (recipe["data"]["init_args"]["crop"], recipe["data"]["init_args"]["batch_size"])
    options = {"crops": 2, "rounds": 2, "network": {"channels": 8, "skip_channels": 8, "dilations": "1,2"}}
    result = runner.describe("data", "cpu") | data.bench_data("cpu", **options, seconds=4)
    assert "MB/s of files" in check(result)
    names = [row["name"] for row in result["rows"]]
    assert names[0] == "training takes" and names[1:4] == ["files, 0 workers", "files, 1 worker", "files, 2 workers"]
    assert len(names) == 7 and names[4] == "packed, 0 workers"
    for row in result["rows"][1:]:  # 16 bits
        assert row["megabytes_per_second"] == pytest.approx(row["median"] * 2 / 1e6, rel=0.01)
    with pytest.raises(WavedilError, match="no such folder"):
        data.bench_data("cpu", data=[str(tmp_path / "none")], **options)
    assert main(["bench", "conv", "DATA"]) == 2
    assert "DATA is for the benchmark data, not for conv" in capsys.readouterr().err


def test_tiles_report_memory_and_are_exact():
    from wavedil.bench import tiles

    options = {"height": 90, "width": 120, "tile": 64, "part": 80, "widths": (4,) * 5, "hidden_channels": 4}
    rows = tiles.bench_tiles("cpu", **options)["rows"]
    assert [row["unit"] for row in rows] == ["s", "GB", "GB", "of the largest"]
    assert 0.05 < rows[2]["median"] <= rows[1]["median"] < 20 and 0 <= rows[3]["median"] < 1e-5
    with pytest.raises(WavedilError, match="so use cpu"):
        tiles.bench_tiles("cuda")


def test_effects(monkeypatch):
    """The rows of each model and block, with and without neural-amp-modeler and a compiler."""

    def peer(model):  # the import of the package takes seconds
        return lambda x, pad_start: model(x[None])[0, :, 0 if pad_start else model.receptive_field - 1 :]

    monkeypatch.setattr(effects, "ROUND", 32)
    monkeypatch.setattr(effects, "_peer", peer)
    models = {
        "nam": lambda: NAM([LayerArray(1, 2, 1, "1,2")]),
        "effect": lambda: Effect(2, 2, "1,2", knobs={"gain": [0, 1]}, sample_rate=8000),
    }
    ours = "torch", "compiled"
    names = [f"nam, block {b}, {row}" for b in (16, 64) for row in (*ours, "neural-amp-modeler")]
    names += [f"effect, block {b}, {row}" for b in (16, 64) for row in ours]
    small = {"blocks": (16, 64), "models": models, "seconds": 0.0}
    result = runner.describe("effects", "cpu") | effects.bench_effects("cpu", **small)
    check(result)
    assert [row["name"] for row in result["rows"]] == names
    for row in result["rows"]:
        if row["name"].endswith(ours):
            assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["slowest_ms"] and row["blocks"] >= 2
    assert "nam: ours and neural-amp-modeler differ by " in result["notes"][0]
    assert float(result["notes"][0].split("differ by ")[1].split()[0]) < 1e-5
    monkeypatch.setattr(effects, "_peer", lambda model: None)
    monkeypatch.setattr("wavedil.audio.effects.compiled.library.find_compiler", lambda: None)
    rows = effects.bench_effects("cpu", **small)["rows"]
    missing = {row["name"].rpartition(", ")[2] for row in rows if row["median"] is None}
    assert missing == {"compiled", "neural-amp-modeler"} and "no C compiler" in rows[1]["note"]
    with pytest.raises(WavedilError, match="device is 'cuda'"):
        effects.bench_effects("cuda")


def test_inpainting_has_the_interpolation_beside_the_model(tmp_path, capsys):
    import torch

    from wavedil.audio import WaveNet, save, write

    save(WaveNet(4, 4, "1,2", sample_rate=8000), tmp_path / "model")
    for index in range(2):
        write(tmp_path / "clips" / f"{index}.wav", 0.3 * torch.sin(torch.arange(2000) / (5 + index)).unsqueeze(0), 8000)
    words = ["--model", tmp_path / "model", "--recordings", tmp_path / "clips", "--json", tmp_path / "found.json"]
    assert main(["bench", "inpaint", *map(str, words), "--gap-ms", "5", "--candidates", "0", "2", "--gaps", "2"]) == 0
    assert "2 gaps" in capsys.readouterr().out
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    found = {(row["name"], row["unit"]): row["median"] for row in rows}
    assert len(found) == 6 and found["gaps of 5 ms, linear prediction", "dB SNR"] > 30
    assert found["gaps of 5 ms, 2 candidates", "dB SNR"] < 30
