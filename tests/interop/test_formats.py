"""Weight files: the format is detected, no code is run, and errors are one line."""

import contextlib
import copy
import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wavedil.errors import WavedilError
from wavedil.interop.formats import convert, parse_options
from wavedil.interop.tensors import fold_weight_norm, read_tensors


def vits(channels=2, layers=2):
    torch.manual_seed(0)
    module = nn.Module()
    module.in_layers = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 3, padding=1) for _ in range(layers))
    widths = [2 * channels] * (layers - 1) + [channels]
    module.res_skip_layers = nn.ModuleList(nn.Conv1d(channels, width, 1) for width in widths)
    return module.state_dict()


def test_the_format_is_detected_in_any_kind_of_checkpoint(tmp_path):
    x, tensors = torch.randn(1, 2, 9), vits()
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "b.pt")
    torch.save({"step": 3, "model": {f"module.{name}": value for name, value in tensors.items()}}, tmp_path / "c.pth")
    torch.save({"state_dict": {f"enc_q.enc.{k}": v for k, v in tensors.items()} | {"dec.bias": x}}, tmp_path / "d.ckpt")
    found = [
        convert(tmp_path / name, prefix=prefix)
        for name, prefix in (("a.safetensors", ""), ("b.pt", ""), ("c.pth", ""), ("d.ckpt", "enc_q.enc"))
    ]
    assert {name for _, name in found} == {"vits-wn"}
    for model, _ in found:
        assert torch.equal(model(x), found[0][0](x))


@pytest.mark.parametrize("make", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv1d(3, 4, 2), (1, 3, 5)), (nn.ConvTranspose2d(1, 1, (3, 4)), (1, 1, 5, 5)), (nn.Linear(3, 2), (1, 3))],
)
def test_weight_norm_of_both_forms_is_folded(make, layer, shape):
    torch.manual_seed(0)
    normed = make(copy.deepcopy(layer))
    for parameter in normed.parameters():
        nn.init.normal_(parameter)
    normed(torch.randn(shape))  # the old form computes its weight in forward
    folded = fold_weight_norm({f"a.{name}": value for name, value in normed.state_dict().items()})
    assert folded.keys() == {"a.weight", "a.bias"}
    torch.testing.assert_close(folded["a.weight"], normed.weight.detach())


@pytest.mark.parametrize(
    ("nests", "prefix"),
    [
        (["state_dict"], "module."),
        (["model", "state_dict"], "module._orig_mod."),
        (["net", "ema"], "_orig_mod.module."),
        (["generator", "model", "params_ema"], ""),
    ],
)
def test_a_state_dict_is_unwrapped(nests, prefix, tmp_path):
    content = {prefix + name: value for name, value in vits().items()}
    for nest in nests:
        content = {"step": 3, nest: content}
    torch.save(content, tmp_path / "a.pt")
    assert read_tensors(tmp_path / "a.pt").keys() == vits().keys()


def test_suffixes_in_capitals_and_settings_given_twice(tmp_path):
    save_file(vits(), tmp_path / "A.SafeTensors")
    assert convert(tmp_path / "A.SafeTensors")[1] == "vits-wn"
    (tmp_path / "A.NAM").write_text("{}")
    with pytest.raises(WavedilError, match="A.NAM is not a .nam file"):
        convert(tmp_path / "A.NAM")
    with pytest.raises(WavedilError, match="--set stacks is given twice"):
        parse_options(["stacks=1", "stacks=2"])


def test_damaged_and_expanding_checkpoints_are_refused(tmp_path):
    path, rng = tmp_path / "a.pt", random.Random(0)
    torch.save({"a": torch.zeros(1).expand(10**9)}, path)
    with pytest.raises(WavedilError, match=r"'a' has shape \(1000000000,\), but fewer numbers"):
        read_tensors(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(WavedilError, match="compressed archive"):
        read_tensors(path)
    for legacy in (False, True):
        torch.save(vits(), path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(rng.choice([1, 4])):
                damaged[rng.randrange(min(len(damaged), 1500))] = rng.randrange(256)
            path.write_bytes(bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])]))
            with contextlib.suppress(WavedilError):
                read_tensors(path)


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


def test_no_code_in_a_file_is_run(tmp_path, capsys):
    torch.save({"weights": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "plain.pkl"):
        with pytest.raises(WavedilError, match="cannot be read as tensors alone") as error:
            read_tensors(tmp_path / name)
        assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_bad_files_and_options_are_refused(tmp_path):
    torch.save(vits(), tmp_path / "vits.pt")
    torch.save({key: value for key, value in vits().items() if key != "in_layers.0.bias"}, tmp_path / "less.pt")
    torch.save({k: v.repeat(2, *[1] * (v.ndim - 1)) if "in_layers.0" in k else v for k, v in vits().items()},
               tmp_path / "more.pt")  # fmt: skip
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "none.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "vits.pt").read_bytes()[:500])
    for name, options, message in [
        ("missing.pt", {}, "missing.pt cannot be read: No such file"),
        ("cut.pt", {}, "cut.pt cannot be read as tensors alone"),
        ("cut.safetensors", {}, "cut.safetensors is not a complete safetensors file"),
        ("list.pt", {}, "list.pt holds a list: expected a dictionary"),
        ("none.pt", {}, "none.pt holds no named tensors"),
        (
            "other.pt",
            {},
            r"other.pt has 1 tensor, e.g. a, of an unknown format: expected one of nam, rtneural, parallel",
        ),
        ("vits.pt", {"name": "mp3"}, "format is 'mp3': expected one of nam, rtneural, parallel-wavegan"),
        ("vits.pt", {"name": "nam"}, "vits.pt is not a .nam file"),
        ("vits.pt", {"name": "diffwave"}, "vits.pt: residual_layers.0.dilated_conv.bias is missing"),
        ("vits.pt", {"name": "wavenet-vocoder"}, "needs stacks, .* add --set stacks=VALUE"),
        ("vits.pt", {"options": {"rate": 2}}, "rate is not an option of vits-wn: expected some of dilation_rate"),
        (
            "vits.pt",
            {"options": {"dilation_rate": "two"}},
            "vits.pt: dilation_rate is 'two': expected",
        ),
        ("less.pt", {}, "less.pt"),
        ("more.pt", {}, "more.pt"),
        ("vits.pt", {"prefix": "dec"}, "prefix is 'dec': no tensor"),
        ("amp.nam", {"options": {"rate": 2}}, "'rate' is not an option of .nam files"),
    ]:
        with pytest.raises(WavedilError, match=message) as error:
            convert(tmp_path / name, **options)
        assert "\n" not in str(error.value)


def test_options_are_json_or_text():
    assert parse_options(["stacks=2", "legacy=false", "activation=relu", "noise=[0.1, 0.2]", "a-b=1"]) == {
        "stacks": 2, "legacy": False, "activation": "relu", "noise": [0.1, 0.2], "a_b": 1,
    }  # fmt: skip
    with pytest.raises(WavedilError, match="--set is 'stacks': expected NAME=VALUE"):
        parse_options(["stacks"])
