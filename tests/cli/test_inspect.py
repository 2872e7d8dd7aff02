"""``wavedil inspect``."""

import json

import pytest


def test_schedules(run):
    info = json.loads(run("inspect", "1,2,4,8,16", "--ndim", 2, "--kernel-size", 3, "--json").out)
    assert info["receptive_field"] == 63 and info["holes"] == 0
    plain = json.loads(run("inspect", "1 x7", "--kernel-size", 3, "--json").out)
    dilated = json.loads(run("inspect", "1..64", "--kernel-size", 3, "--json").out)
    assert plain["parameters"] == dilated["parameters"]
    assert (plain["receptive_field"], dilated["receptive_field"]) == (15, 255)
    bad = json.loads(run("inspect", "2,2,2", "--kernel-size", 3, "--json").out)
    assert (bad["holes"], bad["hdc_m2"]) == (6, 2)
    text = run("inspect", "1..512", "--rate", 16000).out
    assert "1024" in text and "64" in text and "ms" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("2 4 8", "SCHEDULE is in 3 arguments, 2 4 8: write wavedil inspect 2,4,8"),
        ("1, 2, 5 --ndim 2", "write wavedil inspect 1,2,5"),
        ("1..512 x3", 'write wavedil inspect "1..512 x3"'),
        ("1,2 shapes", "unexpected argument 'shapes'"),
        ("1,2 --kernal-size 3", "--kernal-size is unknown: did you mean --kernel-size?"),
        ("pulck", "did you mean pluck?"),
        ("runs/none", "runs/none does not exist: expected a model folder"),
        ("nothing", 'expected a schedule, e.g. "1..512 x3", a model folder or .nam file, or one of overdrive, pluck'),
        ("1,2,x", "'x' is not an integer"),
    ],
)
def test_a_schedule_in_several_words_and_misspelt_ones(refused, words, message):
    assert message in refused("inspect", *words.split())


def test_models(run, tmp_path, wavenet):
    output = run("inspect", wavenet, "--json", "--plot", tmp_path / "field.png")
    info = json.loads(output.out)
    assert output.err == f"wrote {tmp_path / 'field.png'}\n"
    assert info["dilations"] == [1, 2, 4, 8] and info["receptive_field"] == 16
    assert (tmp_path / "field.png").read_bytes().startswith(b"\x89PNG")


NETWORK = """
from torch import nn

def build():
    convs = [nn.Conv2d(channels, 4, 3, stride=2, padding=1) for channels in (1, 4)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def fails():
    raise KeyError("x")

pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, 2), nn.AdaptiveAvgPool2d(1))
text = "no network"
"""


def test_networks_by_name(run, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text(NETWORK)
    info = json.loads(run("inspect", "my_networks:build", "--json", "--plot", "field.png").out)
    assert (info["receptive_field"], info["stride"], info["channels"]) == ([7, 7], 4, 4)
    assert info["parameters"] == 40 + 148 + 10 and info["feature_parameters"] == 188
    assert (tmp_path / "field.png").read_bytes().startswith(b"\x89PNG")
    assert "the full image" in run("inspect", "my_networks:pooled").out
    pytest.importorskip("torchvision")
    info = json.loads(run("inspect", "torchvision:resnet18", "--json").out)
    assert (info["receptive_field"], info["stride"], info["parameters"]) == ([435, 435], 32, 11689512)
    for name, message in {
        "torchvision:resnet19": "did you mean resnet18",
        "torchvision:xyzzy": "xyzzy is no network of torchvision: torchvision has ",
        "my_networks:biuld": "the module my_networks has no biuld",
        "my_networks:fails": "my_networks:fails: cannot build it (KeyError",
        "my_networks:text": "my_networks:text: cannot build it",
        "no_such_module:build": "cannot import no_such_module (ModuleNotFoundError",
    }.items():
        error = refused("inspect", name)
        assert message in error and len(error) < 300
    assert "depend on the full image, so there is no field" in refused(
        "inspect", "my_networks:pooled", "--plot", "a.png"
    )
    assert not (tmp_path / "a.png").exists()
