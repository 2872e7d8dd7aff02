"""``wavedil evaluate --border`` of volumes: the Rand score of objects in three axes, or in each slice."""

import json

import numpy as np
import pytest
import torch

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.vision import VolumeSegmenter, rand_score, save, volume_evaluation, write_label_volume
from wavedil.vision.volume_evaluation import evaluate_volumes

pytest.importorskip("scipy")
pytest.importorskip("nibabel")

AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])  # slices are thick


@pytest.fixture(scope="module")
def network():
    """Voxels of at most 100 are membrane, with a probability near 1; each voxel depends on itself only."""
    model = VolumeSegmenter(2, 1, 1, [1], classes=["membrane", "cell"], mean=[0.0], std=[100.0]).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 5 and "final" not in name:
                weight.zero_()[..., 1, 1, 1] = 1.0
        model.final.weight[:, 0, 0, 0, 0] = torch.tensor([-20.0, 20.0])
        model.final.bias.copy_(torch.tensor([22.0, -22.0]))
    return model


@pytest.fixture
def cells(tmp_path, network):
    """Two volumes of two cells each; in the first one, the predicted membrane has a hole in one of three slices."""
    save(network, tmp_path / "model")
    for index in range(2):
        labels = np.ones((3, 4, 7), np.uint8)
        labels[:, :, 3] = 0
        image = np.where(labels == 0, 10, 250)
        image[2, 1, 3] = 10 if index else 250
        labels[:, 0, 0] = 255
        write_label_volume(tmp_path / f"data/images/{index}.nii.gz", image, AFFINE)
        write_label_volume(tmp_path / f"data/masks/{index}.nii.gz", labels, AFFINE)
    return tmp_path


def test_the_score_is_the_mean_over_volumes_or_slices(cells, capsys):
    command = ["evaluate", str(cells / "model"), str(cells / "data"), "--border", "membrane", "--json"]
    assert main(command) == 0
    volumes = json.loads(capsys.readouterr().out)
    a, b = 3 * 11, 3 * 12  # voxels of both cells; a hole joins them
    merge = (a**2 + b**2) / (a + b) ** 2
    assert volumes["rand"]["split"] == 1.0 and volumes["rand"]["merge"] == pytest.approx((1 + merge) / 2)
    assert volumes["rand"]["v_rand_at_half"] == pytest.approx((1 + 2 / (1 + 1 / merge)) / 2)
    assert "faces of voxels" in volumes["definitions"]["rand"] and "pixel" not in volumes["definitions"]["rand"]
    assert main([*command, "--slices", "--tile", "2"]) == 0
    slices = json.loads(capsys.readouterr().out)
    assert slices["rand"].keys() == volumes["rand"].keys() and slices["mean_iou"] == volumes["mean_iou"]
    assert slices["rand"]["merge"] == pytest.approx((5 + merge) / 6)  # one of six slices has a hole
    assert "mean over slices" in slices["definitions"]["rand"]
    assert main(command[:-1]) == 0 and "V^Rand 0.8" in capsys.readouterr().out
    assert main([*command[:3], "--json"]) == 0
    without = json.loads(capsys.readouterr().out)
    assert without["rand"] is None and without["per_class"] == volumes["per_class"]


def test_an_interrupted_evaluation_continues(cells, network, monkeypatch):
    options = {"border": "membrane", "records": str(cells / "records")}
    expected, calls, read = evaluate_volumes(network, cells / "data", border="membrane"), [], volume_evaluation._measure

    def fails_once(model, pair, *rest):
        calls.append(pair.image.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(model, pair, *rest)

    monkeypatch.setattr(volume_evaluation, "_measure", fails_once)
    with pytest.raises(KeyboardInterrupt):
        evaluate_volumes(network, cells / "data", **options)
    steps = []
    found = evaluate_volumes(network, cells / "data", **options, progress=lambda *done: steps.append(done))
    assert calls == ["0.nii.gz", "1.nii.gz", "1.nii.gz"] and vars(found) == vars(expected) and steps == [(2, 2)]
    with pytest.raises(WavedilError, match="has results with another slices"):
        evaluate_volumes(network, cells / "data", **options, slices=True)


def test_what_cannot_be_scored_is_refused(cells, capsys, monkeypatch):
    command = ["evaluate", str(cells / "model"), str(cells / "data")]
    for options, message in [
        (["--border", "Cell"], "--border is 'Cell': expected one of membrane, cell; did you mean cell?"),
        (["--slices"], "--slices is set, but --border is not"),
        (["--batch", "2"], "--batch is 2, but --records is not set"),
        (["--records", str(cells / "data")], "data"),
    ]:
        assert main([*command, *options]) == 2 and message in capsys.readouterr().err
    monkeypatch.setattr("wavedil.ops.memory.free_memory", lambda device: 32 * 3 * 4 * 7 - 1)
    monkeypatch.setattr("wavedil.vision.data.volumes.check_memory", lambda *needed: None)
    assert main([*command, "--border", "cell"]) == 2
    assert "0.nii.gz has 84 voxels, whose Rand score: needs about" in capsys.readouterr().err
    assert main([*command, "--border", "cell", "--slices"]) == 0


def test_spacing_decides_which_object_is_nearest():
    labeled = np.zeros((4, 3), bool)
    borders = np.array([[False, True, True], [True, True, True], [True, True, True], [True, True, False]])
    true = np.zeros_like(labeled)
    true[2] = True  # rows 0 and 1 are an object, row 3 another
    wide = rand_score(borders, true, spacing=(1.0, 100.0))
    assert rand_score(borders, true, spacing=(100.0, 1.0)).v_rand == 1.0 and wide.v_rand < 1.0
    assert rand_score(borders, true, spacing=(1, 1)) == rand_score(borders, true)
    for spacing in [(1,), (1, 2, 3), (1, 0), (1, -2)]:
        with pytest.raises(WavedilError, match="spacing"):
            rand_score(borders, labeled, spacing=spacing)
