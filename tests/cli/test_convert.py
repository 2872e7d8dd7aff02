"""``wavedil convert`` and ``wavedil export``."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from wavedil.audio import WaveNet, load, save
from wavedil.audio.models.nam import NAM, LayerArray, NAMContainer
from wavedil.audio.models.vits import WN
from wavedil.interop.nam import write_nam


@pytest.fixture
def amp():
    torch.manual_seed(0)
    return NAM([LayerArray(1, 3, 1, "1,2")])


def test_nam_files_are_converted_and_exported(run, tmp_path, amp):
    write_nam(amp, tmp_path / "amp.nam")
    text = run("convert", tmp_path / "amp.nam", tmp_path / "model").out
    assert text == f"{tmp_path / 'model'}: a NAM of {sum(p.numel() for p in amp.parameters())} parameters, from nam\n"
    text = run("export", tmp_path / "model", tmp_path / "again.nam", "--nam-version", "0.5.4").out
    assert text == f"{tmp_path / 'again.nam'}\n"
    assert json.loads((tmp_path / "again.nam").read_text())["version"] == "0.5.4"
    run("convert", tmp_path / "again.nam", tmp_path / "again")
    x = torch.randn(1, 1, 30)
    assert torch.equal(load(tmp_path / "again")(x), amp(x))


def test_metadata_of_an_exported_file(run, refused, tmp_path, amp):
    save(amp, tmp_path / "amp")
    words = ["export", tmp_path / "amp", tmp_path / "amp.nam"]
    run(*words, "--metadata", "name=My = amp", "--metadata", "gear_type=amp_cab", "--metadata", "input_level_dbu=-3.5")
    found = json.loads((tmp_path / "amp.nam").read_text())["metadata"]
    assert found.keys() == {"date", "loudness", "gain", "name", "gear_type", "input_level_dbu"}
    assert (found["name"], found["gear_type"], found["input_level_dbu"]) == ("My = amp", "amp_cab", -3.5)
    for setting, message in (
        ("nane=x", "did you mean name?"),
        ("name", "expected KEY=VALUE"),
        ("gear_type=guitar", "expected one of amp, pedal"),
        ("output_level_dbu=loud", "expected a number of dBu"),
        ("output_level_dbu=nan", "expected a number of dBu"),
    ):
        assert message in refused(*words[:2], tmp_path / "b.nam", "--metadata", setting)
    assert "is given twice" in refused(*words[:2], tmp_path / "b.nam", *["--metadata", "name=x"] * 2)
    assert "for .nam files" in refused(*words[:2], tmp_path / "b.onnx", "--metadata", "name=x")
    assert not list(tmp_path.glob("b.*"))


def test_one_quality_of_a_nam_file_is_converted(run, refused, tmp_path, amp):
    write_nam(NAMContainer([amp, NAM([LayerArray(1, 4, 1, "1,2")])], [0.5, 1]), tmp_path / "pack.nam")
    run("convert", tmp_path / "pack.nam", tmp_path / "all")
    run("convert", tmp_path / "pack.nam", tmp_path / "small", "--set", "quality=0.2")
    x = torch.randn(1, 1, 30)
    assert torch.equal(load(tmp_path / "small")(x), amp(x)) and not torch.equal(load(tmp_path / "all")(x), amp(x))
    for setting, message in (
        ("quality=2", "quality is 2"),
        ("quality=x", "quality is 'x'"),
        ("size=1", "'size' is not"),
    ):
        assert message in refused("convert", tmp_path / "pack.nam", tmp_path / "b", "--set", setting)


def test_settings_complete_what_tensors_contain(run, tmp_path):
    tensors = {
        "in_layers.0.weight": torch.randn(4, 2, 3), "in_layers.0.bias": torch.randn(4),
        "in_layers.1.weight": torch.randn(4, 2, 3), "in_layers.1.bias": torch.randn(4),
        "res_skip_layers.0.weight": torch.randn(4, 2, 1), "res_skip_layers.0.bias": torch.randn(4),
        "res_skip_layers.1.weight": torch.randn(2, 2, 1), "res_skip_layers.1.bias": torch.randn(2),
    }  # fmt: skip
    save_file(tensors, tmp_path / "wn.safetensors")
    run("convert", tmp_path / "wn.safetensors", tmp_path / "wn", "--set", "dilation_rate=3")
    model = load(tmp_path / "wn")
    assert isinstance(model, WN) and model.stack.dilations == (1, 3)


def test_bad_files_and_targets_are_refused(refused, tmp_path, amp):
    save(amp, tmp_path / "amp")
    save(WaveNet(4, 4, "1"), tmp_path / "wavenet")
    (tmp_path / "bad.nam").write_text("{}")
    assert "bad.nam is not a .nam file" in refused("convert", tmp_path / "bad.nam", tmp_path / "a")
    assert "none.pt does not exist: expected a file of weights" in refused(
        "convert", tmp_path / "none.pt", tmp_path / "a"
    )
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", os.devnull):
        assert f"{source} is not a regular file: expected a file of" in refused("convert", source, tmp_path / "a")
    (tmp_path / "pipe").unlink()
    assert "did you mean pluck?" in refused("convert", "plukc", tmp_path / "a")
    assert "DST a.pt looks like a file: expected a folder" in refused("convert", tmp_path / "bad.nam", "a.pt")
    assert "expected a file that ends in .nam, .onnx or .c" in refused("export", tmp_path / "amp", "amp.wav")
    assert "model is a WaveNet: expected a NAM" in refused("export", tmp_path / "wavenet", tmp_path / "a.nam")
    assert "streaming is for .onnx" in refused("export", tmp_path / "amp", "a.nam", "--streaming")
    assert "nothing does not exist" in refused("export", tmp_path / "nothing", tmp_path / "a.nam")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["amp", "bad.nam", "wavenet"]


def test_hub(run, refused, tmp_path, amp, monkeypatch):
    """With a stand-in for the hub's client: no network."""
    hub = pytest.importorskip("huggingface_hub", reason="needs the hub extra")
    seen = {}

    class Client:
        def create_repo(self, repository, **options):
            seen[repository] = options

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            save(load(folder_path), tmp_path / repo_id)
            return f"address of {repo_id}"

    monkeypatch.setattr(hub, "HfApi", Client)
    monkeypatch.setattr(hub, "snapshot_download", lambda repository, allow_patterns: str(tmp_path / repository))
    save(amp, tmp_path / "amp")
    assert run("export", tmp_path / "amp", "hf://me/amp").out == "address of me/amp\n"
    assert seen == {"me/amp": {"private": False, "exist_ok": True}}
    run("convert", "hf://me/amp", tmp_path / "back")
    x = torch.randn(1, 1, 30)
    assert torch.equal(load(tmp_path / "back")(x), amp(x))

    def fails(repository, allow_patterns):
        raise hub.errors.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(hub, "snapshot_download", fails)
    assert "cannot download me/none: no connection" in refused("convert", "hf://me/none", tmp_path / "c")

    def cut_off(*_, **__):
        raise ZeroDivisionError  # as any library for HTTP may

    monkeypatch.setattr(Client, "create_repo", cut_off)
    assert "cannot upload to me/amp: ZeroDivisionError" in refused("export", tmp_path / "amp", "hf://me/amp")
