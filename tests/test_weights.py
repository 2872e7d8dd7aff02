"""Model folders: what comes back is what was saved, and nothing malformed gets in."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from wavedil.audio import WaveNet, load, save
from wavedil.errors import WavedilError


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return save(WaveNet(8, 8, "1..4", input_kernel_size=2, sample_rate=8000, weight_norm=True), tmp_path / "model")


def test_comes_back_whole(folder):
    model = load(folder)
    assert (model.sample_rate, model.dilations, model.training) == (8000, (1, 2, 4), False)
    again = save(model, folder)  # over itself
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]
    assert sorted(path.name for path in again.iterdir()) == ["config.json", "model.safetensors"]
    for key, value in load(again).state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


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
        (lambda f: edit(f, arguments={"channels": "8"}), "build no WaveNet"),
        (lambda f: edit(f, arguments={"chanels": 8}), "build no WaveNet.*chanels"),
        (lambda f: edit(f, **{"class": []}), "names the class"),
        (lambda f: edit(f, arguments={"channels": 16}), "does not fit"),
        (lambda f: edit(f, arguments={"channels": 10**6}), "does not fit"),
        (lambda f: edit(f, arguments={"channels": 10**9}), "does not fit.*far more weights"),
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


def test_nothing_foreign_is_overwritten(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(WavedilError, match="not a model folder"):
        save(WaveNet(8, 8, "1"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]
    with pytest.raises(WavedilError, match="cannot save a torch.nn.modules.linear.Linear: its class is not registered"):
        save(torch.nn.Linear(1, 1), tmp_path / "m")
