"""Model folders: loading restores what was saved, also from format 1, and refuses malformed files."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wavedil import allocation
from wavedil.allocation import AllocationLimit, AllocationLimitError
from wavedil.audio import Effect, LogMel, NearestUpsampling, WaveNet, load, save
from wavedil.audio.models.tcn import TCN
from wavedil.errors import WavedilError
from wavedil.vision import Conv1x1Head, PixelUnshuffle, Regressor, Segmenter, SmallBackbone
from wavedil.weights import model_class, register, with_article

PATCHES = {"class": "wavedil.vision.models.backbone.PixelUnshuffle", "arguments": {}}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return save(WaveNet(8, 8, "1..4", input_kernel_size=2, sample_rate=8000, weight_norm=True), tmp_path / "model")


def test_a_saved_model_is_restored_and_can_be_saved_over(folder):
    model = load(folder)
    assert (model.sample_rate, model.dilations, model.training) == (8000, (1, 2, 4), False)
    again = save(model, folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]
    assert sorted(path.name for path in again.iterdir()) == ["config.json", "model.safetensors"]
    for key, value in load(again).state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    assert model_class(folder) is WaveNet


def test_large_files_are_mapped(folder, monkeypatch):
    monkeypatch.setattr("wavedil.weights.MAX_READ", 100)
    monkeypatch.setattr("safetensors.torch.load", lambda data: pytest.fail("read"))
    assert load(folder).sample_rate == 8000


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "not a model folder"),
        (lambda f: (f / "config.json").write_text("{"), "not a wavedil config"),
        (lambda f: (f / "config.json").write_text("[]"), "not a wavedil config"),
        (lambda f: edit(f, format=99), "format 99"),
        (lambda f: edit(f, **{"class": "os.system"}), "names the class 'os.system', which is not registered"),
        (lambda f: edit(f, arguments={"channels": "8"}), "cannot build a WaveNet"),
        (lambda f: edit(f, arguments={"chanels": 8}), "WaveNet has no argument 'chanels': expected some of channels"),
        (lambda f: edit(f, **{"class": []}), "names the class"),
        (lambda f: edit(f, arguments={"channels": 16}), "does not fit"),
        (
            lambda f: edit(f, arguments={"channels": 10**6}),
            "channels is 1000000: expected a positive",
        ),
        (lambda f: edit(f, arguments={"channels": 2000}), "does not fit"),
        (lambda f: edit(f, arguments={"channels": 2**14}), "does not fit.*far more weights"),
        (lambda f: edit(f, arguments={"input_kernel_size": 2**20}), "does not fit.*far more weights"),
        (lambda f: edit(f, arguments={"quantizer": "linear", "num_codes": 2**40}), "does not fit|cannot build"),
        (lambda f: edit(f, **part(Segmenter, backbone=PATCHES, head=PATCHES, num_classes=2**40)), "num_classes is"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04nonsense"), "cannot be read"),
        (lambda f: save_file({"x": torch.zeros(1)}, f / "model.safetensors"), "does not fit"),
        (
            lambda f: save_file(
                {k: v for k, v in load_file(f / "model.safetensors").items() if k != "head.out.bias"},
                f / "model.safetensors",
            ),
            "head.out.bias",
        ),
    ],
)
def test_malformed_folders_are_refused_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(WavedilError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        "wavedil.audio.data...os",
        "wavedil.audio.models.wavenet.torch",
        "wavedil.audio.models.wavenet.Head",
        "wavedil.cli.parser.Main",
        "wavedil.bench.train.Train",
        "this.Zen",
        "subprocess.Popen",
    ],
)
def test_loading_imports_only_audio_and_vision_and_builds_only_registered_classes(folder, path):
    before = set(sys.modules)
    edit(folder, **{"class": path})
    for read in (load, model_class):
        with pytest.raises(WavedilError, match="not registered"):
            read(folder)
    added = set(sys.modules) - before
    assert not {name for name in added if not name.startswith(("wavedil.audio", "wavedil.vision"))}


@register
class Nested(nn.Module):
    """A class of another package that takes parts in a list, a dictionary and through keywords."""

    def __init__(
        self,
        parts: Sequence[nn.Module] = (),
        by_name: Mapping[str, Any] | None = None,
        width: int | list[int] = 3,
        anything=None,
        **further: int,
    ):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.by_name = nn.ModuleDict(by_name or {})
        self.further = nn.Parameter(torch.zeros(sum(further.values())))


def part(cls, **arguments):
    return {"class": f"{cls.__module__}.{cls.__qualname__}", "arguments": arguments}


def test_parts_are_restored_in_lists_dictionaries_and_keyword_arguments(tmp_path):
    model = Nested([Conv1x1Head(2, 3)], {"one": Conv1x1Head(3, 4)}, more=5, still=2)
    restored = load(save(model, tmp_path / "model"))
    assert restored.config == model.config and restored.config["more"] == 5
    assert torch.equal(restored.by_name["one"].score.weight, model.by_name["one"].score.weight)
    assert torch.equal(restored.parts[0].score.weight, model.parts[0].score.weight) and len(restored.further) == 7


ONE = torch.ones(1)
HEAD = part(Conv1x1Head, in_channels=2, num_classes=3)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (
            TCN,
            {"in_channels": 1, "out_channels": 1, "gated": part(SmallBackbone, channels=8)},
            "gated is a SmallBackbone",
        ),
        (
            TCN,
            {"in_channels": 1, "out_channels": 1, "activation": HEAD},
            "activation is a Conv1x1Head",
        ),
        (
            TCN,
            {"in_channels": 1, "out_channels": 1, "dilations": [1, HEAD]},
            r"dilations is \[1, a Conv1x1Head\]",
        ),
        (WaveNet, {"speakers": [HEAD]}, r"speakers is \[a Conv1x1Head\]: expected a list of texts"),
        (NearestUpsampling, {"features": HEAD}, "features is a Conv1x1Head: expected a Features"),
        (Nested, {"width": [HEAD]}, r"width is \[a Conv1x1Head\]: expected an integer"),
        (Nested, {"width": HEAD}, "width is a Conv1x1Head: expected an integer"),
        (Nested, {"parts": HEAD}, "parts is a Conv1x1Head: expected a list"),
        (Nested, {"more": HEAD}, "more is a Conv1x1Head: expected an integer"),
        (
            Nested,
            {"parts": [part(TCN, in_channels=1, out_channels=1, gated=HEAD)]},
            "parts: gated is a Conv",
        ),
    ],
)
def test_a_part_is_refused_where_the_constructor_takes_none(folder, cls, arguments, message):
    edit(folder, **part(cls, **arguments))
    with pytest.raises(WavedilError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_classes_without_a_constructor_are_registered_too(tmp_path):
    @register
    class Square(nn.Module):
        def forward(self, x):
            return x * x

    assert load(save(Nested([Square()], anything=Square()), tmp_path / "model")).config["anything"] == part(Square)
    with pytest.raises(TypeError):
        Square(1)


def test_constructors_need_named_arguments():
    class Positional(nn.Module):
        def __init__(self, *sizes):
            super().__init__()

    with pytest.raises(WavedilError, match=r"\*sizes has no name"):
        register(Positional)


@pytest.mark.parametrize(
    "create",
    [
        lambda: torch.zeros(9, 9),
        lambda: torch.full((9, 9), 1.0),
        lambda: torch.empty(size=(9, 9)),
        lambda: ONE.new_zeros((9, 9)),
        lambda: torch.eye(9),
        lambda: torch.arange(81),
        lambda: torch.arange(0, 810, 10),
        lambda: torch.linspace(0, 1, 81),
        lambda: torch.linspace(0, 1, steps=81),
        lambda: torch.hann_window(81),
        lambda: torch.randperm(81),
    ],
)
def test_the_allocation_limit_counts_numbers_before_they_are_allocated(monkeypatch, create):
    monkeypatch.setattr(allocation.AllocationLimit, "SLACK", 1)
    with AllocationLimit({"x": torch.zeros(10)}) as limit:
        create()
        assert limit.left == 0
        with pytest.raises(AllocationLimitError, match="1 numbers"):
            torch.zeros(1)


def test_a_part_that_is_no_module_is_stored_with_its_model_but_not_alone(tmp_path):
    @register
    class Rule:
        def __init__(self, factor: float):
            self.factor = factor

    @register
    class Scaled(nn.Module):
        def __init__(self, rule: Rule):
            super().__init__()
            self.weight, self.rule = nn.Parameter(torch.ones(2)), rule

    folder = save(Scaled(Rule(0.5)), tmp_path / "model")
    assert load(folder).rule.factor == 0.5
    edit(folder, **part(Rule, factor=1.0))
    with pytest.raises(WavedilError, match="holds a Rule: expected a torch.nn.Module"):
        load(folder)


# Format 1


def old_folder(folder, model, name, arguments, prefixes):
    """Writes ``model`` as version 0.1 did; ``prefixes`` maps today's beginnings of tensor names to the old ones."""
    folder.mkdir()
    tensors = {}
    for key, value in model.state_dict().items():
        new = next((prefix for prefix in prefixes if key.startswith(prefix)), "")
        tensors[prefixes.get(new, "") + key.removeprefix(new)] = value
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": 1, "model": name, "arguments": arguments}))
    return folder


def old_part(name, **arguments):
    return {"model": name, "arguments": arguments}


def old_wavenet():
    mel = NearestUpsampling(LogMel(8000, n_mels=4, n_fft=64, hop_length=20))
    model = WaveNet(4, 4, "1,2", input_kernel_size=2, num_codes=128, sample_rate=8000, condition=mel, speakers=["ann"])
    old_mel = old_part("LogMel", sample_rate=8000, n_mels=4, n_fft=64, hop=20, fmin=0.0, fmax=None)
    arguments = {"channels": 4, "skip_channels": 4, "dilations": "1,2", "front_kernel_size": 2, "codes": 128}
    arguments |= {"quantiser": "mulaw", "sample_rate": 8000, "speakers": ["ann"]}
    arguments["condition"] = old_part("NearestUpsampling", features=old_mel, channels=None, frame_kernel_size=3)
    return model, "WaveNet", arguments, {"input_embedding.": "front."}


def old_effect():
    model = Effect(4, 4, "1,2", knobs={"gain": [0, 1]}, sample_rate=8000)
    arguments = {"channels": 4, "skip_channels": 4, "dilations": "1,2", "knobs": {"gain": [0, 1]}, "sample_rate": 8000}
    return model, "Effect", arguments, {"input_conv.": "front."}


def old_segmenter():
    model = Segmenter(PixelUnshuffle(4), Conv1x1Head(48, 3), num_classes=3, align="center")
    arguments = {"backbone": old_part("Patches", output_stride=4), "num_classes": 3, "align": "centre"}
    return model, "Segmenter", arguments | {"head": old_part("Score", in_channels=48, num_classes=3)}, {}


def old_regressor():
    model = Regressor(SmallBackbone(8, 4), Conv1x1Head(8, 1), target_mean=0.5)
    arguments = {"backbone": old_part("SmallBackbone", channels=8, output_stride=4), "centre": 0.5}
    return model, "Regressor", arguments | {"head": old_part("Score", in_channels=8, num_classes=1)}, {}


@pytest.mark.parametrize("write", [old_wavenet, old_effect, old_segmenter, old_regressor])
def test_format_1_loads_with_one_warning(tmp_path, caplog, write):
    torch.manual_seed(0)
    model, name, arguments, prefixes = write()
    folder = old_folder(tmp_path / "old", model, name, arguments, prefixes)
    assert model_class(folder) is type(model) and not caplog.records
    found = load(folder)
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "format 1" in caplog.text
    assert type(found) is type(model) and found.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in model.state_dict().items())
    assert found.config == model.config
    save(found, folder)
    caplog.clear()
    assert load(folder).config == model.config and not caplog.records


def test_unknown_names_of_format_1_are_refused(tmp_path):
    model, _, arguments, prefixes = old_effect()
    folder = old_folder(tmp_path / "old", model, "Sorcery", arguments, prefixes)
    with pytest.raises(WavedilError, match="'Sorcery', which is not registered"):
        load(folder)


# Saving over an existing folder


def test_a_folder_with_other_files_is_not_replaced(tmp_path, folder):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(WavedilError, match="exists and is not a model folder"):
        save(WaveNet(8, 8, "1"), tmp_path)
    (folder / "README.md").write_text("mine")
    with pytest.raises(WavedilError, match="exists and is not a model folder"):
        save(WaveNet(8, 8, "1"), folder)
    (folder / "README.md").unlink()
    (folder / "config.json").write_text('{"model_type": "bert"}')  # as other programs name their files
    weights = (folder / "model.safetensors").read_bytes()
    with pytest.raises(WavedilError, match="exists and is not a model folder"):
        save(WaveNet(8, 8, "1"), folder)
    assert (folder / "model.safetensors").read_bytes() == weights
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WavedilError, match="exists and is not a model folder"):
        save(WaveNet(8, 8, "1"), tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "keep.txt", "model"]


def test_empty_folders_and_links_are_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    os.symlink(tmp_path / "empty", tmp_path / "link")
    for channels in (4, 8):
        save(WaveNet(channels, 8, "1"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and load(tmp_path / "empty").config["channels"] == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "link"]


def test_a_failed_save_leaves_the_old_folder(tmp_path, folder, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save(WaveNet(4, 4, "1"), folder)
    assert [p.name for p in tmp_path.iterdir()] == ["model"] and (folder / "model.safetensors").read_bytes() == before


def test_tied_weights_are_saved(tmp_path):
    @register
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
            self.two.weight = self.one.weight

    model = Tied()
    assert torch.equal(load(save(model, tmp_path / "model")).two.weight, model.one.weight)


def test_unregistered_classes_are_not_saved(tmp_path):
    with pytest.raises(WavedilError, match="cannot save a torch.nn.modules.linear.Linear: its class is not registered"):
        save(torch.nn.Linear(1, 1), tmp_path / "model")
    model = Segmenter(PixelUnshuffle(4), nn.Conv2d(48, 3, 1), num_classes=3)
    with pytest.raises(WavedilError, match=r"cannot save Segmenter.head: torch.nn.modules.conv.Conv2d"):
        save(model, tmp_path / "model")
    model = Segmenter(PixelUnshuffle(4), Conv1x1Head(48, 3), num_classes=3)
    model.head = Conv1x1Head(48, 4)
    with pytest.raises(WavedilError, match="head.score.bias is .4,. in the model and .3,. in one"):
        save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_articles():
    assert (with_article(Effect), with_article(WaveNet)) == ("an Effect", "a WaveNet")
