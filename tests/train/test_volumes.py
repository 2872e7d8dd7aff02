"""Training on volumes: patches, classes, a run, and its continuation."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from wavedil.errors import WavedilError
from wavedil.train import VolumeData, VolumeModule
from wavedil.train.run import train
from wavedil.vision import load, read_image, read_label_volume, read_volume, write_label_volume
from wavedil.vision.data.ellipsoids import draw, make_ellipsoids
from wavedil.vision.data.volume_pairs import RandomPatches, VolumeDataset, find_volume_pairs, split_volume_pairs
from wavedil.vision.volume_evaluation import evaluate_volumes

pytest.importorskip("nibabel")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Bright blocks in small volumes, the last of which has none."""
    root = tmp_path_factory.mktemp("data")
    for index in range(6):
        generator = np.random.default_rng(index)
        labels = np.zeros((6 + index, 12, 10), np.uint8)
        if index < 5:
            first = generator.integers(0, (4, 8, 6))
            labels[tuple(slice(at, at + 3) for at in first)] = 1
        values = 40 + 100 * labels + generator.integers(0, 20, labels.shape)
        write_label_volume(root / "images" / f"{index}.nii.gz", values, np.diag([1, 1, 2, 1]))
        write_label_volume(root / "masks" / f"{index}.nii.gz", labels, np.diag([1, 1, 2, 1]))
    return root


@pytest.fixture
def recipe(tmp_path, data):
    def recipe(model=(), **options):
        model = dict(model)
        small = {
            "model": {
                "class_path": "wavedil.train.VolumeModule",
                "init_args": {
                    "channels": 4,
                    "dilations": [[1, 1, 1]],
                    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.03}},
                    "warmup_steps": 2,
                    **model,
                },
            },
            "data": {
                "class_path": "wavedil.train.VolumeData",
                "init_args": {"root": str(data), "patch": [6, 8, 8], "batch_size": 2, **options},
            },
            "trainer": {"max_steps": 30, "val_check_interval": 15, "logger": False, "accelerator": "cpu"},
        }
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
        return str(tmp_path / "small.yaml")

    return recipe


def patches(data, size=(6, 8, 8), **options):
    return RandomPatches(VolumeDataset(find_volume_pairs(data), 2), size, **options)


def test_the_share_of_patches_on_the_foreground_is_as_asked(data):
    for share, low, high in ((0.0, 0.0, 0.2), (0.5, 0.3, 0.6), (1.0, 5 / 6, 5 / 6)):
        found = patches(data, (1, 1, 1), foreground=share, seed=1)
        hits = np.mean([int(found[index]["labels"].max()) for index in range(120)])
        assert low <= hits <= high + 1e-9
    centered = patches(data, (3, 3, 3), foreground=1.0)
    for index in range(12):
        image, labels = centered.volumes.read(centered._volume(index))
        start, item = centered.start(index, labels), centered[index]
        if labels.max() and all(0 < at < side - 3 for at, side in zip(start, labels.shape, strict=True)):
            assert item["labels"][1, 1, 1] == 1
        window = tuple(slice(at, at + 3) for at in start)
        np.testing.assert_array_equal(item["image"][0], image[0][window])
        np.testing.assert_array_equal(item["labels"], labels[window])


def test_patches_depend_on_seed_and_number_only(data):
    one, two, other = (patches(data, seed=seed) for seed in (3, 3, 4))
    order = [int(n) for n in np.random.default_rng(0).permutation(20)]
    expected = {index: one[index] for index in range(20)}
    assert all(torch.equal(two[index]["image"], expected[index]["image"]) for index in order)
    assert any(not torch.equal(other[index]["image"], expected[index]["image"]) for index in order)
    assert sorted(one._volume(index) for index in range(6)) == list(range(6))


def test_patches_larger_than_the_volume_are_filled_and_ignored(data):
    large = patches(data, (13, 12, 16))
    for index in range(6):
        item, labels = large[index], large.volumes.read(large._volume(index))[1]
        outside = item["labels"] == 255
        assert outside.sum() == 13 * 12 * 16 - labels.size and (item["image"][0][outside] == 0).all()
        assert (item["labels"] == 1).sum() == (labels == 1).sum()


def mean_iou(folder):
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return max(float(row["valid_mean_iou"]) for row in rows if row["valid_mean_iou"] not in ("", "nan"))


def test_a_run_learns_and_continues_as_if_it_was_not_interrupted(recipe, data, tmp_path, interrupted_at):
    whole = train(recipe(), out=str(tmp_path / "whole"))
    model = load(whole / "model")
    assert model.classes == ["0", "1"] and 40 < float(model.mean) < 60
    assert mean_iou(whole) > 0.85
    interrupted_at(VolumeModule, 20, lambda: train(recipe(), out=str(tmp_path / "parts")))
    parts = train(out=str(tmp_path / "parts"), resume="auto")
    for name, value in load(parts / "model").state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
    assert "receptive field" in (page := (whole / "report.html").read_text()) and "5 x 5 x 5 voxels" in page


NORMALIZED = {"normalization": {"class_path": "NormalizeIntensity", "init_args": {"nonzero": True}}}
AUGMENTED = {"augmentation": {"class_path": "PatchAugmentation", "init_args": {"noise": 0.1, "gamma": [0.8, 1.2]}}}


@pytest.fixture(scope="module")
def scanned(tmp_path_factory, data):
    """The volumes of ``data``, each in another unit, in folders of other names."""
    root = tmp_path_factory.mktemp("scanned")
    for index, pair in enumerate(find_volume_pairs(data)):
        volume, labels = read_volume(pair.image), read_label_volume(pair.mask)
        values = volume.values[0].astype(int) * 3**index
        write_label_volume(root / "scans" / pair.image.name, values, volume.affine)
        write_label_volume(root / "masks" / pair.mask.name, labels.values, labels.affine)
    return root


def test_normalized_and_augmented_patches(recipe, scanned, tmp_path, interrupted_at):
    """A model learns volumes in different units, continues as if it was not interrupted, and is a start for others."""
    normalized = recipe(NORMALIZED, root=str(scanned), images="scans", **AUGMENTED)
    whole = train(normalized, out=str(tmp_path / "whole"), overrides=["--previews.first=10", "--samples.num=1"])
    model = load(whole / "model")
    assert model.normalization.nonzero and mean_iou(whole) > 0.8
    assert evaluate_volumes(model, scanned, images="scans").mean_iou > 0.8
    pictures = [whole / "previews" / "step_000010_0.png", whole / "samples" / "image_000.png"]
    assert [read_image(path).shape for path in pictures] == [(12, 3 * 10 + 2 * 4, 3)] * 2
    captions = json.loads((whole / "samples" / "captions.json").read_text())["image_000"]
    most = read_label_volume(scanned / "masks" / captions["file"]).values.sum((1, 2)).argmax()
    assert captions == {"file": "0.nii.gz", "slice": f"{most + 1} of 6"}
    page = (whole / "report.html").read_text()
    assert "Classes</h2>" in page and "Confusion matrix</h3>" in page and captions["slice"] in page
    interrupted_at(VolumeModule, 20, lambda: train(normalized, out=str(tmp_path / "parts")))
    parts = train(out=str(tmp_path / "parts"), resume="auto", overrides=["--data.num_workers=1"])
    for name, value in load(parts / "model").state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)

    start = ["--model.normalization=null", f"--model.init={whole / 'model'}", "--trainer.max_steps=1"]
    options = ["--model.optimizer.lr=0", "--trainer.val_check_interval=1"]
    tuned = train(normalized, out=str(tmp_path / "tuned"), overrides=[*start, *options])
    found = load(tuned / "model")
    assert found.normalization.nonzero and torch.equal(found.final.weight, model.final.weight)
    for option, message in [
        ("--model.channels=8", f"channels is 8 and that of {whole / 'model'} 4: set it to null"),
        ("--model.dilations=[[1,2,2]]", "dilations is [[1, 2, 2]] and that of"),
        ("--data.classes=3", f"{whole / 'model'} has 2 classes and the data 3: expected the same"),
        (f"--model.init={tmp_path}", "is not a model folder"),
    ]:
        with pytest.raises(WavedilError, match=re.escape(message)):
            train(normalized, out=str(tmp_path / "refused"), overrides=[*start, option])


def test_built_in_volumes(tmp_path):
    values, labels = draw((16, 24, 24), np.random.default_rng(0))
    assert values.shape == labels.shape == (16, 24, 24) and set(np.unique(labels)) == {0, 1}
    assert values[labels == 1].mean() > values[labels == 0].mean() + 30
    root = make_ellipsoids(tmp_path, 2, 1, (8, 9, 10))
    train_pairs, valid, note = split_volume_pairs(root)
    assert (len(train_pairs), len(valid)) == (
        2,
        1,
    ) and note == "folders train and val: 2 for training, 1 for validation"
    with pytest.raises(WavedilError, match="train is 0"):
        make_ellipsoids(tmp_path, 0)


def test_data_that_cannot_be_trained_on_are_refused_in_a_line(tmp_path, data):
    labels = np.ones((6, 6, 6), np.uint8)
    for index in range(2):
        write_label_volume(tmp_path / "zero/images" / f"{index}.nii", labels, np.eye(4))
        write_label_volume(tmp_path / "zero/masks" / f"{index}.nii", 0 * labels, np.eye(4))
        write_label_volume(tmp_path / "ignored/images" / f"{index}.nii", labels, np.eye(4))
        write_label_volume(tmp_path / "ignored/masks" / f"{index}.nii", 255 * labels, np.eye(4))
        write_label_volume(tmp_path / "moved/images" / f"{index}.nii", labels, np.eye(4))
        write_label_volume(tmp_path / "moved/masks" / f"{index}.nii", labels, np.diag([1, 2, 1, 1]))
        write_label_volume(tmp_path / "alone/images" / f"{index}.nii", labels, np.eye(4))
    write_label_volume(tmp_path / "alone/masks/0.nii", labels, np.eye(4))
    for options, message in [
        ({"root": str(tmp_path / "zero")}, "all voxels are of class 0"),
        ({"root": str(tmp_path / "ignored")}, "all voxels of the 1 training volumes are ignored"),
        ({"root": str(tmp_path / "moved")}, "has another affine than its image"),
        ({"root": str(tmp_path / "alone")}, "1.nii has no mask of the same name"),
        ({"root": str(tmp_path / "none")}, "none is not a folder"),
        ({"classes": 1}, "value 1 is not a class"),
        ({"patch": [6, 8]}, "patch"),
        ({"foreground": 1.5}, "foreground"),
        ({"validation": "("}, "is not a regular expression"),
        ({"patch": [4000, 4000, 4000]}, "needs about"),
    ]:
        with pytest.raises(WavedilError, match=re.escape(message)) as error:
            module = VolumeData(**{"root": str(data), **options})
            module.trainer = SimpleNamespace(lightning_module=SimpleNamespace(in_channels=1))
            module.read_data()
        assert "\n" not in str(error.value)


def test_small_intensities_have_a_deviation_and_constant_ones_have_none(tmp_path):
    import nibabel

    values = np.random.default_rng(0).normal(1e-9, 2e-10, (6, 5, 4)).astype(np.float32)
    (tmp_path / "images").mkdir()
    write_label_volume(tmp_path / "masks" / "1.nii", np.ones((4, 5, 6), int), np.eye(4))
    for image, expected in ((values, values.std()), (np.full_like(values, 1e-9), 1), (np.full_like(values, 1e8), 1)):
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "images" / "1.nii")
        _, (mean,), (std,) = VolumeDataset(find_volume_pairs(tmp_path)).statistics()
        assert mean == pytest.approx(image.mean(dtype=float)) and std == pytest.approx(expected, rel=1e-4)
