"""Work in batches: each item once, restartable, shared by processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wavedil.audio import WaveNet, generate, save
from wavedil.audio.data import audio_files
from wavedil.batches import MANIFEST, Batches, fingerprint
from wavedil.cli import main
from wavedil.errors import WavedilError


def write_files(folder, log):
    def work(items):
        log.extend(items)
        for item in items:
            (folder / f"{item}.txt").write_text("x" * item)
        return [{"item": item, "files": {"text": str(folder / f"{item}.txt")}} for item in items]

    return work


@pytest.mark.parametrize(("items", "size"), [(1, 1), (7, 3), (6, 3), (5, 100)])
def test_each_item_is_done_once_and_listed_in_order(tmp_path, items, size):
    log, progress = [], []
    batches = Batches(tmp_path, items, size, {"a": 1})
    manifest, made = batches.run(write_files(tmp_path, log), lambda *numbers: progress.append(numbers))
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert made == items and log == list(range(items)) == [record["item"] for record in records]
    assert [record["files"]["text"]["bytes"] for record in records] == log
    assert progress[-1] == (items, items)
    again, made = Batches(tmp_path, items, size, {"a": 1}).run(write_files(tmp_path, log))
    assert (again, made, len(log)) == (manifest, 0, items)


def test_an_interrupted_batch_is_done_again_and_a_finished_one_is_not(tmp_path):
    log = []

    def interrupted(items):
        if items.start == 4:
            raise KeyboardInterrupt
        return write_files(tmp_path, log)(items)

    with pytest.raises(KeyboardInterrupt):
        Batches(tmp_path, 6, 2, {}).run(interrupted)
    assert log == [0, 1, 2, 3] and not (tmp_path / MANIFEST).exists()
    (tmp_path / "1.txt").unlink()  # a lost file, and a torn record
    assert Batches(tmp_path, 6, 2, {}).run(write_files(tmp_path, log))[1] == 4
    assert log == [0, 1, 2, 3, 0, 1, 4, 5]
    (tmp_path / "batches" / "0000001.json").write_text("[{")
    assert Batches(tmp_path, 6, 2, {}).run(write_files(tmp_path, log))[1] == 2 and log[8:] == [2, 3]


@pytest.mark.parametrize("other", [{"seed": 2}, {"seed": 1, "top_k": 3}, {}])
def test_results_of_other_settings_are_not_continued(tmp_path, other):
    Batches(tmp_path, 6, 2, {"seed": 1}).run(write_files(tmp_path, []))
    with pytest.raises(WavedilError, match="has results with another (seed|top_k)"):
        Batches(tmp_path, 6, 2, other)
    with pytest.raises(WavedilError, match="another items"):
        Batches(tmp_path, 7, 2, {"seed": 1})


def test_processes_share_the_work_and_one_that_is_killed_is_replaced(tmp_path):
    """Three processes, the first killed within its first batch: every item is done, by the others."""
    code = f"""
import os, sys, time
from pathlib import Path
from wavedil.batches import Batches

folder = Path({str(tmp_path)!r})

def work(items):
    with open(folder / "log", "a") as file:
        file.write(f"{{sys.argv[1]}} {{items.start}}\\n")
    if sys.argv[1] == "killed":
        time.sleep(60)
    return [{{"item": item}} for item in items]

print(Batches(folder, 40, 3, {{}}).run(work)[1])
"""
    killed = subprocess.Popen([sys.executable, "-c", code, "killed"])
    while not (tmp_path / "log").exists():
        assert killed.poll() is None
    others = [subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE) for name in "ab"]
    while len((tmp_path / "log").read_text().splitlines()) < 14:  # all other batches are begun
        assert all(process.poll() in (None, 0) for process in others)
    killed.send_signal(signal.SIGKILL)
    assert sum(int(process.communicate()[0]) for process in others) == 40
    lines = (tmp_path / "log").read_text().split("\n")[:-1]
    starts = sorted(int(line.split()[1]) for line in lines if not line.startswith("killed"))
    assert starts == list(range(0, 40, 3)) and killed.wait() == -signal.SIGKILL
    records = (tmp_path / MANIFEST).read_text().splitlines()
    assert [json.loads(line)["item"] for line in records] == list(range(40))


def test_ranks_divide_the_work_where_files_cannot_be_locked(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("wavedil.batches.fcntl.lockf", no_locks)
    monkeypatch.setenv("WORLD_SIZE", "2")
    log = []
    monkeypatch.setenv("RANK", "1")
    assert Batches(tmp_path, 7, 2, {}).run(write_files(tmp_path, log)) == (None, 3)
    assert log == [6, 2, 3]
    monkeypatch.setenv("RANK", "0")
    manifest, made = Batches(tmp_path, 7, 2, {}).run(write_files(tmp_path, log))
    assert made == 4 and len(manifest.read_text().splitlines()) == 7


def test_the_fingerprint_depends_on_config_and_weights():
    torch.manual_seed(0)
    model = WaveNet(4, 4, "1,2", sample_rate=8000)
    first = fingerprint(model)
    assert first == fingerprint(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    assert fingerprint(model) != first


@pytest.fixture(scope="module")
def wavenet(tmp_path_factory):
    torch.manual_seed(0)
    return save(WaveNet(4, 4, "1,2", sample_rate=8000), tmp_path_factory.mktemp("models") / "model")


def run(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def test_sampling_in_batches_writes_the_clips_of_one_call(tmp_path, wavenet, capsys):
    words = ["sample", wavenet, "--seconds", 0.01, "--num", 5, "--seed", 3, "--engine", "torch"]
    result = run(capsys, *words, "--batch", 2, "--out", tmp_path / "a")
    records = [json.loads(line) for line in Path(result["manifest"]).read_text().splitlines()]
    plain = run(capsys, *words, "--out", tmp_path / "b")
    assert result["count"] == 5 and [record["clip"] for record in records] == list(range(5))
    for record, path in zip(records, plain["files"], strict=True):
        sound = tmp_path / "a" / record["files"]["sound"]["path"]
        assert sound.read_bytes() == Path(path).read_bytes()
    again = run(capsys, *words, "--batch", 2, "--out", tmp_path / "a")
    assert again["count"] == 0 and again["samples_per_second"] is None
    assert main([str(word) for word in [*words, "--top-k", 2, "--batch", 2, "--out", tmp_path / "a"]]) == 2
    assert "has results with another top_k (null, now 2)" in capsys.readouterr().err


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_results_of_batches_and_other_results_do_not_mix(tmp_path, wavenet, capsys):
    words = ["sample", wavenet, "--seconds", 0.01, "--num", 3, "--engine", "torch", "--out", tmp_path / "out"]
    run(capsys, *words, "--batch", 2)
    assert "made with --batch" in refused(capsys, *words, "--seed", 9)
    assert "batch is 0" in refused(capsys, *words[:-1], tmp_path / "other", "--batch", 0)
    assert not (tmp_path / "other").exists()


def test_records_are_kept_apart_from_models_and_data(tmp_path, wavenet, capsys):
    audio_files.write(tmp_path / "sounds" / "a.wav", np.full(300, 0.1, np.float32), 8000)
    words = ["evaluate", wavenet, tmp_path / "sounds"]
    assert "is a model folder" in refused(capsys, *words, "--records", wavenet)
    assert "is in the input folder" in refused(capsys, *words, "--records", tmp_path / "sounds" / "records")
    message = "--batch is 4, but --records is not set: set it to a folder, or leave --batch out"
    assert message in refused(capsys, *words, "--batch", 4)
    assert sorted(path.name for path in wavenet.iterdir()) == ["config.json", "model.safetensors"]
    assert os.listdir(tmp_path / "sounds") == ["a.wav"]


def test_streams_are_numbered_from_first(wavenet):
    from wavedil.audio import load

    model = load(wavenet)
    clips = generate(model, 30, num=5, seed=1, engine="torch")
    assert torch.equal(generate(model, 30, num=2, first=3, seed=1, engine="torch"), clips[3:])
    for first in (-1, 1.5, True, 2**63):
        with pytest.raises(WavedilError, match="first is"):
            generate(model, 30, first=first)


def test_evaluation_in_batches_equals_one_call(tmp_path, wavenet, capsys):
    for index in range(5):
        sound = 0.3 * np.sin(np.arange(200 + 90 * index) / (5 + index)).astype(np.float32)
        audio_files.write(tmp_path / "sounds" / f"{index}.wav", sound, 8000)
    words = ["evaluate", wavenet, tmp_path / "sounds", "--json"]
    once = run(capsys, *words)
    batched = run(capsys, *words, "--records", tmp_path / "records", "--batch", 2)
    assert batched["bits_per_sample"] == pytest.approx(once["bits_per_sample"], rel=1e-12)
    assert {**batched, "bits_per_sample": 0} == {**once, "bits_per_sample": 0}
    assert len(os.listdir(tmp_path / "records" / "batches")) == 5  # three batches, settings, locks


def test_held_out_parts_and_silent_batches_are_evaluated(tmp_path, wavenet, capsys):
    sound = 0.3 * np.sin(np.arange(1000) / 7).astype(np.float32)
    for index in range(4):
        audio_files.write(tmp_path / "sounds" / f"{index}.wav", sound * (index != 1), 8000)
    words = ["evaluate", wavenet, tmp_path / "sounds", "--json"]
    batches = ["--batch", 1, "--records"]
    for number, options in enumerate((["--held-out"], ["--trim-db", 40])):
        once = run(capsys, *words, *options)
        assert run(capsys, *words, *options, *batches, tmp_path / str(number)) == once
    words[2] = tmp_path / "sounds" / "0.wav"  # one file: its last tenth is held out
    assert run(capsys, *words, "--held-out", *batches, tmp_path / "one")["count"] == 100
    words[2] = tmp_path / "sounds" / "1.wav"
    assert "removes all 1 files" in refused(capsys, *words, "--trim-db", 40, *batches, tmp_path / "silent")


@pytest.mark.parametrize("kind", ["Segmenter", "Regressor"])
def test_images_in_batches_equal_one_call(tmp_path, kind, capsys):
    from wavedil.vision import Conv1x1Head, Regressor, Segmenter, SmallBackbone
    from wavedil.vision.data.images import write_image

    torch.manual_seed(0)
    parts = SmallBackbone(8, output_stride=4), Conv1x1Head(8, 3 if kind == "Segmenter" else 1)
    model = Segmenter(*parts, num_classes=3) if kind == "Segmenter" else Regressor(*parts)
    save(model, tmp_path / "model")
    random = np.random.default_rng(0)
    for index in range(3):
        image = random.integers(0, 256, (20 + index, 24, 3), dtype=np.uint8)
        write_image(tmp_path / "data" / "images" / f"{index}.png", image)
        if kind == "Segmenter":
            write_image(tmp_path / "data" / "masks" / f"{index}.png", np.repeat(image[..., :1] % 3, 3, 2))
        else:
            (tmp_path / "data" / "targets").mkdir(exist_ok=True)
            np.save(tmp_path / "data" / "targets" / f"{index}.npy", image[..., 0].astype(np.float32) + 1)
    words = ["evaluate", tmp_path / "model", tmp_path / "data", "--json"]
    once = run(capsys, *words)
    batched = run(capsys, *words, "--records", tmp_path / "records", "--batch", 2)
    for name, value in once.items():  # sums of batches are rounded differently
        assert batched[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)

    words = ["segment", tmp_path / "model", tmp_path / "data" / "images", "--out"]
    plain = run(capsys, *words, tmp_path / "a")
    result = run(capsys, *words, tmp_path / "b", "--batch", 2)
    records = [json.loads(line) for line in Path(result["manifest"]).read_text().splitlines()]
    assert [record["image"] for record in records] == [entry["image"] for entry in plain["files"]]
    for record, entry in zip(records, plain["files"], strict=True):
        for name, file in record["files"].items():
            assert (tmp_path / "b" / file["path"]).read_bytes() == Path(entry[name]).read_bytes()


def test_only_the_first_rank_prints(tmp_path, wavenet, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["sample", wavenet, "--seconds", 0.01, "--num", 3, "--batch", 1, "--engine", "torch", "--out", tmp_path]
    assert main([str(word) for word in words]) == 0
    assert not capsys.readouterr().out and (tmp_path / MANIFEST).exists()
