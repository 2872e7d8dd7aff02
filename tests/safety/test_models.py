"""Model folders beside other processes: readers see one complete version, and killed savers leave nothing behind."""

import json
import os
import signal
import time

import pytest
import torch
from torch import nn

from wavedil import weights, writing
from wavedil.audio import WaveNet
from wavedil.errors import WavedilError
from wavedil.weights import load, model_class, register, save
from wavedil.writing import atomic_write


@register
class Number(nn.Module):
    """Its argument and its weights tell which version was loaded."""

    def __init__(self, value: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((20000,), float(value)))


def is_consistent(model):
    return bool((model.weight == model.config["value"]).all())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def start_saver(folder, value):
    """Forks a process that saves models again and again; returns its number."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                value += 1
                save(Number(value), folder)
        finally:
            os._exit(1)
    return child


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_loads_beside_a_saving_process_see_one_version_each(tmp_path):
    folder = save(Number(0), tmp_path / "run" / "model")
    savers = [start_saver(folder, 0)]
    try:
        values, until = set(), time.monotonic() + 1
        while time.monotonic() < until:
            model = load(folder)
            assert is_consistent(model) and model_class(folder) is Number
            values.add(model.config["value"])
        assert len(values) > 3
    finally:
        for child in savers:
            kill(child)


def test_a_killed_saver_leaves_a_model_and_the_next_save_its_folder_only(tmp_path):
    folder = save(Number(0), tmp_path / "model")
    left = 0
    for number in range(15):
        child = start_saver(folder, 100 * number)
        time.sleep(0.004 + 0.0011 * number)  # each is killed at another point of a save
        kill(child)
        assert is_consistent(load(folder))
        left += len(names(tmp_path)) > 1
    assert left
    save(Number(1), folder)
    assert [names(path) for path in tmp_path.iterdir()] == [["config.json", "model.safetensors"]]
    assert load(folder).config["value"] == 1


@pytest.mark.parametrize("exchange", [True, False])
def test_replacing_is_one_step_where_the_system_can(tmp_path, monkeypatch, exchange):
    folder = save(Number(0), tmp_path / "model")
    if not exchange:
        monkeypatch.setattr(writing, "_exchange", lambda *_: False)
    save(Number(1), folder)
    assert load(folder).config["value"] == 1 and names(tmp_path) == ["model"]


def test_a_load_between_two_renames_waits(tmp_path, monkeypatch):
    folder = save(Number(3), tmp_path / "model")
    away = tmp_path / ".model.saving-0123abcd"
    folder.rename(away)
    monkeypatch.setattr(weights.time, "sleep", lambda _: away.exists() and away.rename(folder))
    assert load(folder).config["value"] == 3


def test_a_missing_folder_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(WavedilError, match="model does not exist: expected a model folder"):
        load(tmp_path / "model")
    (tmp_path / "model").mkdir()
    with pytest.raises(WavedilError, match="is not a model folder"):
        load(tmp_path / "model")


def test_config_and_weights_are_of_the_same_version(tmp_path, monkeypatch):
    folder = save(Number(1), tmp_path / "model")
    read, versions = weights._read_tensors, iter([2, 3])

    def replaced_meanwhile(path):
        value = next(versions, None)
        if value is not None:
            save(Number(value), folder)
        return read(path)

    monkeypatch.setattr(weights, "_read_tensors", replaced_meanwhile)
    model = load(folder)
    assert is_consistent(model) and model.config["value"] == 3


def test_only_our_own_leftovers_of_dead_processes_are_removed(tmp_path):
    def make(name, *content):
        (tmp_path / name).mkdir()
        for file in content:
            (tmp_path / name / file).write_text("x")

    both = ("config.json", "model.safetensors")
    make(".model.saving-0123abcd", *both)
    make(".model.saving-1123abcd", "config.json")
    kept = [".model.backup01", ".model.saving-2123abcd", ".model.saving-xyz", ".other.saving-0123abcd", "model2"]
    make(kept[0], *both)
    make(kept[1], *both, "mine.txt")
    make(kept[2], *both)
    make(kept[3], *both)
    make(kept[4], *both)
    os.symlink(tmp_path / "model2", tmp_path / ".model.saving-3123abcd")
    save(Number(0), tmp_path / "model")
    assert names(tmp_path) == sorted([*kept, "model", ".model.saving-3123abcd"])
    assert names(tmp_path / "model2") == sorted(both) and len(names(tmp_path / kept[1])) == 3


def test_the_folder_of_a_living_process_is_not_removed(tmp_path):
    with writing.temporary_beside(tmp_path / "model", is_folder=True) as other:
        save(Number(0), tmp_path / "model")
        assert other.is_dir()
    save(Number(0), tmp_path / "model")
    assert names(tmp_path) == ["model"]


def test_a_file_added_while_saving_is_not_lost(tmp_path, monkeypatch):
    folder = save(Number(0), tmp_path / "model")
    write = weights.json.dumps

    def add(*args, **kwargs):
        (folder / "notes.txt").write_text("mine")
        return write(*args, **kwargs)

    monkeypatch.setattr(weights.json, "dumps", add)
    with pytest.raises(WavedilError, match="not a model folder"):
        save(Number(1), folder)
    monkeypatch.undo()
    assert (folder / "notes.txt").read_text() == "mine" and json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_refused(tmp_path, name, kind):
    folder = save(WaveNet(4, 4, "1"), tmp_path / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name) if kind == "pipe" else (folder / name).mkdir()
    with pytest.raises(WavedilError, match=f"{name} is not a regular file") as error:
        load(folder)
    assert "\n" not in str(error.value)


# Files


def test_a_temporary_file_does_not_follow_links_and_leftovers_are_removed(tmp_path):
    dead = tmp_path / ".a.saving-0123abcd.txt"
    dead.write_text("half")
    for name in (".a.txt", ".a.1234.txt", "a.saving-0123abcd.txt"):
        (tmp_path / name).write_text("mine")
    with atomic_write(tmp_path / "a.txt") as temporary, atomic_write(tmp_path / "a.txt") as other:
        assert temporary != other and not temporary.is_symlink()
        temporary.write_text("one")
        other.write_text("two")
    assert (tmp_path / "a.txt").read_text() == "one"
    assert names(tmp_path) == [".a.1234.txt", ".a.txt", "a.saving-0123abcd.txt", "a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_long_names_are_written(tmp_path):
    path = tmp_path / ("ä" * 120 + ".txt")
    with atomic_write(path) as temporary:
        temporary.write_text("x")
    assert path.read_text() == "x"


@pytest.mark.parametrize("weights_name", ["timm", "imagenet"])
@pytest.mark.parametrize("nested", [True, False])
def test_a_config_cannot_ask_for_pretrained_weights(tmp_path, weights_name, nested):
    pytest.importorskip("timm")
    backbone = "wavedil.vision.models.timm_backbone.TimmBackbone"
    part = {"class": backbone, "arguments": {"name": "efficientnet_lite0", "weights": weights_name}}
    if nested:
        arguments = {"backbone": part, "head": None, "num_classes": 2}
        part = {"class": "wavedil.vision.models.segmenter.Segmenter", "arguments": arguments}
    folder = save(Number(1), tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"format": 2, **part}))
    with pytest.raises(WavedilError, match="sets weights of TimmBackbone"):
        load(folder)
