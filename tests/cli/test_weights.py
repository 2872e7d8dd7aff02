"""``wavedil convert`` and ``wavedil export``: weights in and out."""

import json

import pytest
import torch
from safetensors.torch import save_file

from wavedil.audio import WaveNet, load, save
from wavedil.audio.models.nam import NAM, LayerArray
from wavedil.audio.models.vits import WN
from wavedil.cli.main import main
from wavedil.interop.nam import write_nam


def run(capsys, *argv, status=0):
    assert main([str(a) for a in argv]) == status
    return capsys.readouterr()


def refused(capsys, *argv):
    out = run(capsys, *argv, status=2)
    assert out.err.startswith("error: ") and out.err.count("\n") == 1
    return out.err


@pytest.fixture
def amp():
    torch.manual_seed(0)
    return NAM([LayerArray(1, 3, 1, "1,2")])


def test_nam_in_and_out(capsys, tmp_path, amp):
    write_nam(amp, tmp_path / "amp.nam")
    said = run(capsys, "convert", tmp_path / "amp.nam", tmp_path / "model").out
    assert said == f"{tmp_path / 'model'}: a NAM of {sum(p.numel() for p in amp.parameters())} parameters, from nam\n"
    said = run(capsys, "export", tmp_path / "model", tmp_path / "again.nam", "--nam-version", "0.5.4").out
    assert said == f"{tmp_path / 'again.nam'}\n"
    assert json.loads((tmp_path / "again.nam").read_text())["version"] == "0.5.4"
    run(capsys, "convert", tmp_path / "again.nam", tmp_path / "again")
    x = torch.randn(1, 1, 30)
    assert torch.equal(load(tmp_path / "again")(x), amp(x))


def test_tensors_with_settings(capsys, tmp_path):
    tensors = {
        "in_layers.0.weight": torch.randn(4, 2, 3), "in_layers.0.bias": torch.randn(4),
        "in_layers.1.weight": torch.randn(4, 2, 3), "in_layers.1.bias": torch.randn(4),
        "res_skip_layers.0.weight": torch.randn(4, 2, 1), "res_skip_layers.0.bias": torch.randn(4),
        "res_skip_layers.1.weight": torch.randn(2, 2, 1), "res_skip_layers.1.bias": torch.randn(2),
    }  # fmt: skip
    save_file(tensors, tmp_path / "wn.safetensors")
    run(capsys, "convert", tmp_path / "wn.safetensors", tmp_path / "wn", "--set", "dilation_rate=3")
    model = load(tmp_path / "wn")
    assert isinstance(model, WN) and model.stack.dilations == (1, 3)


def test_what_is_refused(capsys, tmp_path, amp):
    save(amp, tmp_path / "amp")
    save(WaveNet(4, 4, "1"), tmp_path / "wavenet")
    (tmp_path / "bad.nam").write_text("{}")
    assert "bad.nam is not a .nam file" in refused(capsys, "convert", tmp_path / "bad.nam", tmp_path / "a")
    assert "cannot be read" in refused(capsys, "convert", tmp_path / "none.pt", tmp_path / "a")
    assert "expected a name that ends in .nam or .onnx" in refused(capsys, "export", tmp_path / "amp", "amp.wav")
    assert "model is a WaveNet: expected a NAM" in refused(capsys, "export", tmp_path / "wavenet", tmp_path / "a.nam")
    assert "--streaming is for .onnx" in refused(capsys, "export", tmp_path / "amp", "a.nam", "--streaming")
    assert "not a model folder" in refused(capsys, "export", tmp_path / "nothing", tmp_path / "a.nam")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["amp", "bad.nam", "wavenet"]


def test_hub(capsys, tmp_path, amp, monkeypatch):
    """What is given to the hub's client, and what it gives back; no network."""
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
    assert run(capsys, "export", tmp_path / "amp", "hf://me/amp").out == "address of me/amp\n"
    assert seen == {"me/amp": {"private": False, "exist_ok": True}}
    run(capsys, "convert", "hf://me/amp", tmp_path / "back")
    x = torch.randn(1, 1, 30)
    assert torch.equal(load(tmp_path / "back")(x), amp(x))

    def fails(repository, allow_patterns):
        raise hub.errors.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(hub, "snapshot_download", fails)
    assert "cannot download me/none: no connection" in refused(capsys, "convert", "hf://me/none", tmp_path / "c")

    def cut_off(*_, **__):
        raise ZeroDivisionError  # as any library for HTTP may

    monkeypatch.setattr(Client, "create_repo", cut_off)
    assert "cannot upload to me/amp: ZeroDivisionError" in refused(capsys, "export", tmp_path / "amp", "hf://me/amp")
