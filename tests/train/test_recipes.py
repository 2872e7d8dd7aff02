"""Recipes, runs and options of version 0.1: recipes and runs are renamed while they are read, options refused."""

import pytest
import torch
import yaml

from wavedil.audio import load
from wavedil.errors import WavedilError
from wavedil.renames import upgrade_recipe
from wavedil.train import AudioModule, MusicModule
from wavedil.train.recipes import check_options, find_recipe, known_recipes, read_recipe
from wavedil.train.run import train

CHORALES = """
model:
  class_path: wavedil.train.MusicModule
  init_args:
    network:
      class_path: wavedil.audio.relatives.tcn.TCN
      init_args: {in_channels: 88, out_channels: 88, channels: 8, dilations: "1,2", kernel_size: 2}
    average: 0.5
    decay: 0.5
data:
  class_path: wavedil.train.MusicData
trainer: {max_steps: 4, val_check_interval: 2, precision: 32-true}
previews: {first: 100}
samples: {num: 1, length: 9}
"""

PLUCK = """
model:
  class_path: wavedil.train.module.AudioModule
  init_args:
    network:
      class_path: wavedil.audio.WaveNet
      init_args: {channels: 8, skip_channels: 8, dilations: "1,2", codes: 64, front_kernel_size: 2, sample_rate: 4000}
data:
  class_path: wavedil.train.AudioData
  init_args: {crop: 200, batch_size: 2, built_in_seconds: 20, valid_seconds: 0.2, workers: 0}
trainer: {max_steps: 8, val_check_interval: 4, precision: 32-true}
previews: {first: 100}
samples: {num: 1, seconds: 0.01}
"""

SEGMENTS = {
    "model": {
        "class_path": "wavedil.train.SegmentationModule",
        "init_args": {
            "backbone": {"class_path": "wavedil.vision.Patches", "init_args": {"output_stride": 2}},
            "head": "wavedil.vision.heads.Score",
            "optimizer": {"class_path": "my_optimizers.Slow", "init_args": {"decay": 3}},
            "backbone_rate": 0.3,
            "power": 1.0,
            "align": "centre",
        },
    },
    "data": {"class_path": "wavedil.train.segmentation_data.SegmentationData", "init_args": {"workers": 2}},
}


@pytest.fixture
def recipe(tmp_path):
    def recipe(text):
        (tmp_path / "old.yaml").write_text(text)
        return str(tmp_path / "old.yaml")

    return recipe


def test_a_recipe_of_version_0_1_trains_with_one_warning(tmp_path, recipe, capsys):
    folder = train(recipe(CHORALES), out=str(tmp_path / "run"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "version 0.1" in line]
    assert len(lines) == 1 and "old.yaml has names of version 0.1" in lines[0]
    assert "wavedil.audio.relatives.tcn.TCN -> wavedil.audio.models.tcn.TCN, average -> ema_decay" in lines[0]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["model"]["init_args"]["ema_decay"], config["model"]["init_args"]["lr_decay"]) == (0.5, 0.5)
    assert read_recipe(folder / "config.yaml")[1] == []
    load(folder / "model")


def test_all_names_of_a_recipe_are_renamed_and_those_of_others_are_kept():
    upgraded, notes = upgrade_recipe(SEGMENTS)
    arguments = upgraded["model"]["init_args"]
    assert arguments["backbone"]["class_path"] == "wavedil.vision.PixelUnshuffle"
    assert arguments["head"] == "wavedil.vision.models.heads.Conv1x1Head"
    assert arguments["optimizer"] == SEGMENTS["model"]["init_args"]["optimizer"]
    assert (arguments["backbone_lr_scale"], arguments["lr_power"], arguments["align"]) == (0.3, 1.0, "center")
    assert upgraded["data"] == {"class_path": "wavedil.train.SegmentationData", "init_args": {"num_workers": 2}}
    assert len(notes) == 7
    loss = {"class_path": "wavedil.audio.losses.Sum", "init_args": {"losses": ["wavedil.audio.losses.ESR"]}}
    effects, _ = upgrade_recipe({"class_path": "wavedil.train.paired.PairedModule", "init_args": {"loss": loss}})
    assert effects["class_path"] == "wavedil.train.EffectModule"
    assert effects["init_args"]["loss"]["class_path"] == "wavedil.audio.effects.losses.WeightedSum"
    assert effects["init_args"]["loss"]["init_args"]["losses"] == ["wavedil.audio.effects.losses.ESR"]


@pytest.mark.parametrize("name", known_recipes())
def test_the_recipes_of_the_package_use_the_names_of_today(name):
    assert read_recipe(find_recipe(name))[1] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.average=0.9"], "--model.average is an option of version 0.1: it is now --model.ema_decay"),
        (["--model.init_args.average", "0.9"], "it is now --model.init_args.ema_decay"),
        (["--model.network.codes", "64"], "it is now --model.network.num_codes"),
        (["--data.workers=2"], "it is now --data.num_workers"),
        (["--model.network=wavedil.audio.relatives.tcn.TCN"], "it is now wavedil.audio.models.tcn.TCN"),
        (["--model.head", "Score"], "--model.head is Score, a name of version 0.1: it is now Conv1x1Head"),
        (["--model.align=centre"], "it is now center"),
    ],
)
def test_old_options_are_refused_with_the_new_name(tmp_path, recipe, options, message):
    with pytest.raises(WavedilError, match=message) as error:
        train(recipe(PLUCK), out=str(tmp_path / "run"), overrides=options)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_options_of_today_pass():
    config, _ = upgrade_recipe(yaml.safe_load(PLUCK))
    check_options(["--model.network.num_codes=64", "--data.root", "speech/", "--trainer.max_time", "null"], config)
    check_options(["--model.optimizer.lr=1e-3", "--previews.first=3", "--model.drop_condition", "-1"], config)


def test_a_run_of_version_0_1_is_continued(tmp_path, recipe, interrupted_at, capsys):
    """Its config.yaml has old names, its checkpoint old tensors and no learning-rate scheduler."""
    whole = train(recipe(PLUCK), out=str(tmp_path / "whole"))
    out = str(tmp_path / "run")
    folder = interrupted_at(AudioModule, 5, lambda: train(recipe(PLUCK), out=out))
    (folder / "config.yaml").write_text(PLUCK)
    path = folder / "checkpoints" / "interrupted.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = {
        key.replace("input_embedding.", "front."): value for key, value in checkpoint["state_dict"].items()
    }
    checkpoint["lr_schedulers"] = []
    torch.save(checkpoint, path)
    assert any("network.front." in key for key in checkpoint["state_dict"])
    capsys.readouterr()
    assert train(out=out, resume="auto") == folder
    assert "config.yaml has names of version 0.1" in capsys.readouterr().err
    expected = load(whole / "model").state_dict()
    for key, value in load(folder / "model").state_dict().items():
        torch.testing.assert_close(value, expected[key])


def test_a_checkpoint_that_does_not_fit_names_version_0_1(tmp_path, recipe, interrupted_at):
    """Version 0.1 kept the best network of piano rolls in the checkpoint."""
    out = str(tmp_path / "run")
    folder = interrupted_at(MusicModule, 3, lambda: train(recipe(CHORALES), out=out))
    path = folder / "checkpoints" / "interrupted.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["best_nll"] = torch.tensor(3.0)
    torch.save(checkpoint, path)
    with pytest.raises(WavedilError, match="with version 0.1 if that started it: .*best_nll") as error:
        train(out=out, resume="auto")
    assert "\n" not in str(error.value)
