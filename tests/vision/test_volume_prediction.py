"""Segmentation of volumes: the network, its tiles, and the commands segment, evaluate and inspect."""

import json

import numpy as np
import pytest
import torch

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.vision import (
    ScaleIntensityRange,
    VolumeSegmenter,
    hausdorff_distance,
    label_volume,
    load,
    read_label_volume,
    read_volume,
    save,
    tile_exactly,
    write_label_volume,
)
from wavedil.vision.inspection import inspect_volume_segmenter
from wavedil.vision.volume_evaluation import class_figures, evaluate_volumes

pytest.importorskip("nibabel")

AFFINE = np.array([[-1.25, 0, 0, 5], [0, 1.5, 0, 0], [0, 0, 3.0, -7], [0, 0, 0, 1]])


def network(classes=3):
    torch.manual_seed(0)
    model = VolumeSegmenter(classes, 1, 4, [(1, 2, 2), (1, 1, 1)], mean=[100.0], std=[50.0])
    volume = 100 + 50 * torch.randn(8, 1, 8, 8, 8)
    for _ in range(20):
        model(volume)  # statistics of the batch norms
    with torch.no_grad():  # all classes occur
        model.eval().final.bias -= model(volume).mean((0, 2, 3, 4))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and volumes whose labels are its own with changes."""
    root, model = tmp_path_factory.mktemp("volumes"), network()
    save(model, root / "model")
    for index in range(3):
        generator = np.random.default_rng(index)
        values = generator.normal(100, 50, (7 + index, 10, 9)).clip(0).astype(int)
        write_label_volume(root / "images" / "a" / f"{index}.nii.gz", values, AFFINE)
        labels = label_volume(model, read_volume(root / "images" / "a" / f"{index}.nii.gz").values)
        labels[generator.random(labels.shape) < 0.3] = index
        labels[0, 0] = 255
        write_label_volume(root / "masks" / "a" / f"{index}.nii", labels, AFFINE)
    return root


@torch.no_grad()
def test_tiles_equal_the_whole_volume():
    model, volume = network().double(), 100 + 50 * torch.randn(1, 1, 11, 17, 14, dtype=torch.float64)
    assert model.receptive_field == (7, 9, 9)
    whole = model(volume)
    found = tile_exactly(model, volume, (4, 6, 5), margin=(3, 4, 4))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    labels = whole[0].argmax(0).numpy()
    for tile in (None, 5, (3, 17, 6)):
        np.testing.assert_array_equal(label_volume(model, volume[0], tile), labels)
    assert len(np.unique(labels)) == 3
    changed = volume.clone()
    changed[..., 4] += 100
    assert (model(changed) != whole)[..., 9:].sum() == 0 and (model(changed) != whole)[..., 8].any()


def test_the_command_writes_labels_in_the_space_of_the_volume(folder, tmp_path, capsys):
    command = ["segment", str(folder / "model"), str(folder / "images"), "--out", str(tmp_path / "out"), "--tile", "4"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert [each["labels"] for each in result["files"]] == [str(tmp_path / f"out/a/{i}.nii.gz") for i in range(3)]
    for index in range(3):
        volume = read_volume(folder / f"images/a/{index}.nii.gz")
        labels = read_label_volume(tmp_path / f"out/a/{index}.nii.gz", 3)
        np.testing.assert_allclose(labels.affine, volume.affine)
        np.testing.assert_array_equal(labels.values, label_volume(load(folder / "model"), volume.values))
    assert main(["segment", str(folder / "model"), str(folder / "images"), "--out", str(folder / "images")]) == 2
    assert main(["segment", str(folder / "model"), str(folder / "model"), "--out", str(tmp_path / "x")]) == 2
    assert main(["segment", str(folder / "model"), __file__, "--out", str(tmp_path / "x")]) == 2
    assert "is not a volume: expected a file that ends in .nii or .nii.gz" in capsys.readouterr().err


def test_the_figures_are_those_of_each_volume(folder, capsys):
    main(["evaluate", str(folder / "model"), str(folder), "--json"])
    found, model = json.loads(capsys.readouterr().out), load(folder / "model")
    dice, distances, counts = [], [], np.zeros((3, 3), np.int64)
    for index in range(3):
        labels = read_label_volume(folder / f"masks/a/{index}.nii").values
        predicted = label_volume(model, read_volume(folder / f"images/a/{index}.nii.gz").values)
        known = labels != 255
        a, b = (predicted == 1) & known, labels == 1
        dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
        distances.append(hausdorff_distance(a, b, (3.0, 1.5, 1.25)))
        np.add.at(counts, (labels[known], predicted[known]), 1)
    iou = counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal())
    assert found["mean_iou"] == pytest.approx(iou.mean()) and found["count"] == counts.sum()
    row = found["per_class"]["1"]
    assert row["dice"] == pytest.approx(np.mean(dice)) and row["hausdorff_mm"] == pytest.approx(np.mean(distances))
    assert row["iou"] == pytest.approx(iou[1]) and 0 < row["hausdorff95_mm"] <= row["hausdorff_mm"]
    main(["evaluate", str(folder / "model"), str(folder), "--held-out"])
    assert "voxels of 1 volume\n" in capsys.readouterr().out
    main(["inspect", str(folder / "model")])
    text = capsys.readouterr().out
    assert "7 x 9 x 9 voxels" in text and "mean 100, standard deviation 50" in text
    info = inspect_volume_segmenter(VolumeSegmenter(2, normalization=ScaleIntensityRange(-160, 240)))
    assert info["normalization"] == "ScaleIntensityRange(a_min=-160, a_max=240)"


def test_classes_that_are_missing_in_a_volume_have_no_distance():
    labels, predicted = np.zeros((2, 4, 4, 4), np.int64)
    labels[0, 0, 0], predicted[0, 0, 0], labels[1] = 1, 2, 255
    zero, one, two, three = class_figures(predicted, labels, (1, 1, 1), 4)
    assert one == two == {"dice": 0.0, "missed": 1} and three == {}
    assert zero == {"dice": 1.0, "hausdorff_mm": 0.0, "hausdorff95_mm": 0.0}


def test_other_volumes_are_refused(folder, tmp_path):
    model = network()
    for volume, message in [
        (np.zeros((2, 4, 4, 4), np.float32), "expected floats of shape"),
        (np.zeros((1, 4, 4, 4), np.uint8), "expected floats of shape"),
        (np.zeros((4, 4, 4), np.float32), "expected floats of shape"),
    ]:
        with pytest.raises(WavedilError, match=message):
            label_volume(model, volume)
    with pytest.raises(WavedilError, match="model is in training mode"):
        label_volume(network().train(), np.zeros((1, 4, 4, 4), np.float32))
    with pytest.raises(WavedilError, match="value 2 is not a class"):
        evaluate_volumes(network(2), folder)
    for options, message in [
        ({"images": "other"}, "other is not a folder"),
        ({"exclude": "."}, "leaves out all 3 images"),
        ({"exclude": "images/a/1"}, None),
        ({"validation": "x"}, "none of the volumes"),
    ]:
        if message is None:
            assert evaluate_volumes(model, folder, **options).volumes == 2
        else:
            with pytest.raises(WavedilError, match=message):
                evaluate_volumes(model, folder, **options)
    for options, message in [
        ({"classes": ["a"]}, "classes has 1 name:"),
        ({"mean": [1.0, 2.0]}, "mean has 2 numbers"),
    ]:
        with pytest.raises(WavedilError, match=message):
            VolumeSegmenter(2, **options)
