"""A model of another package is sampled from the shell, with options of its own function."""

import json

from torch import nn

from wavedil import register
from wavedil.audio import save
from wavedil.cli import main


def write_beeps(model, out, *, num=1, seed=0, progress=None):
    if progress is not None:
        progress(1, 1)
    return {"files": [], "num": num, "seed": seed, "pitch": model.config["pitch"]}


@register
class Beeper(nn.Module):
    def __init__(self, pitch: int):
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(1, 1).weight.detach())

    @staticmethod
    def sampling():
        return write_beeps


def test_a_model_of_another_package_is_sampled(tmp_path, capsys):
    folder = str(save(Beeper(440), tmp_path / "model"))
    assert main(["sample", folder, "--num", "3", "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": [], "num": 3, "seed": 0, "pitch": 440}
    assert main(["sample", folder, "--top-k", "3"]) == 2
    assert capsys.readouterr().err == ("error: --top-k is not an option of a Beeper: expected one of --num, --seed\n")
