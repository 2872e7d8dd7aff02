"""Segmentation with several classes per pixel: data, training, prediction and evaluation."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train.build import build
from wavedil.train.recipes import find_recipe
from wavedil.train.run import train
from wavedil.vision import Conv1x1Head, DenseCRF, MultilabelSegmenter, SmallBackbone, load, predict, read_image
from wavedil.vision.data import overlaps
from wavedil.vision.data.images import read_mask, write_image
from wavedil.vision.data.multilabel import IGNORED_BITS, MultilabelDataset, class_folders, find_multilabel_pairs
from wavedil.vision.data.pairs import FolderLayout, find_pairs
from wavedil.vision.metrics import finite

RECIPE = {
    "model": {
        "class_path": "wavedil.train.MultilabelModule",
        "init_args": {
            "backbone": {"class_path": "SmallBackbone", "init_args": {"channels": 8, "output_stride": 2}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.05}},
            "warmup_steps": 5,
        },
    },
    "data": {"class_path": "wavedil.train.MultilabelData", "init_args": {"crop": [16, 16], "batch_size": 4}},
    "trainer": {"max_steps": 60, "val_check_interval": 30},
    "previews": {"first": 10},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Red pixels are of class warm, green ones of class "go & see", yellow ones of both, black ones of none."""
    folder = tmp_path_factory.mktemp("multilabel")
    for index in range(12):
        generator = np.random.default_rng(index)
        cells = np.kron(generator.integers(0, 4, (4, 5)), np.ones((6, 6))).astype(np.uint8)
        image = np.stack([220 * (cells & 1), 110 * (cells & 2), 0 * cells], -1).astype(np.uint8)
        write_image(
            folder / "images" / f"{index:02d}.png", image + generator.integers(0, 9, image.shape, dtype=np.uint8)
        )
        for bit, name, value in ((1, "warm", 255), (2, "go & see", 1)):
            mask = np.where(cells & bit, value, 0).astype(np.uint8)
            mask[0] = 128
            write_image(folder / "masks" / name / f"{index:02d}.png", mask)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "several.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures, recipe):
    out = str(tmp_path_factory.mktemp("runs") / "several")
    return train(recipe, out=out, overrides=[f"--data.root={pictures}", "--data.ignore_label=128"])


def bits(pictures, index, ignore_label=None):
    names = class_folders(pictures / "masks")
    pairs = find_multilabel_pairs(lambda layout: find_pairs(pictures, layout), FolderLayout(), names, ignore_label)
    return MultilabelDataset(pairs, 2).read(index)[1], MultilabelDataset(pairs, 2)[index]["labels"]


def test_masks_are_bits_and_zeros_and_ones(pictures):
    assert class_folders(pictures / "masks") == ["go & see", "warm"]
    found, labels = bits(pictures, 3, ignore_label=128)
    masks = [read_mask(pictures / "masks" / name / "03.png", colors=False) for name in ("go & see", "warm")]
    assert (found[0] == IGNORED_BITS).all() and (labels[:, 0] == 255).all()
    assert (found[1:] == sum((mask[1:] > 0) << label for label, mask in enumerate(masks))).all()
    assert (labels[:, 1:].numpy() == np.stack(masks)[:, 1:].astype(bool)).all()
    assert (bits(pictures, 3)[1][:, 0] == 1).all()  # without an ignore_label, 128 is the class


def test_it_learns_both_classes_and_evaluates_as_by_hand(run, pictures, capsys):
    model = load(run / "model")
    assert type(model) is MultilabelSegmenter and list(model.classes) == ["go & see", "warm"]
    assert (run / "samples" / "image_000.png").is_file() and list((run / "previews").glob("step_000010*.png"))
    assert main(["evaluate", str(run), str(pictures), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    counts = np.zeros((3, 2))
    for index in range(12):
        masks = predict(model, read_image(pictures / "images" / f"{index:02d}.png"))
        truth, known = bits(pictures, index, 128)[1].numpy() == 1, bits(pictures, index, 128)[1].numpy() != 255
        assert masks.dtype == bool and masks.shape == (2, 24, 30)
        counts += [(a & known).sum((1, 2)) for a in (masks & truth, masks, truth)]
    iou = counts[0] / (counts[1] + counts[2] - counts[0])
    assert list(result["classes"].values()) == pytest.approx(iou.tolist()) and iou.min() > 0.8
    assert result["mean_iou"] == pytest.approx(iou.mean()) and result["count"] == 12 * 23 * 30
    assert "at least 0.5" in result["definition"] and "ignore label 128" in result["definition"]
    assert 0.5 < result["boundary_f1"] <= 1
    page = (run / "report.html").read_text()
    assert ">boundary F1</th>" in page and "go &amp; see" in page and "Confusion" not in page
    assert "valid_mean_iou" in (run / "metrics.csv").read_text()


def test_segment_writes_a_mask_for_each_class(run, pictures, tmp_path, capsys):
    image = pictures / "images" / "02.png"
    words = ["segment", str(run), str(image), "--out", str(tmp_path / "out"), "--probabilities", "--tile", "16"]
    assert main(words) == 0
    files = json.loads(capsys.readouterr().out)["files"][0]
    model = load(run / "model")
    masks = predict(model, read_image(image))
    for label, name in enumerate(model.classes):
        assert files[f"masks/{name}"] == str(tmp_path / "out" / name / "02.png")
        assert (read_mask(files[f"masks/{name}"], colors=False) == 255 * masks[label]).all()
    probabilities = np.load(files["probabilities"])
    assert ((probabilities >= 0.5) == masks).all() and probabilities.sum(0).max() > 1.01
    assert np.allclose(probabilities, predict(model, read_image(image), probabilities=True), atol=1e-4)
    assert read_image(files["overlay"]).shape == (24, 30, 3)


def test_a_crf_is_refused(run, pictures, tmp_path, capsys):
    image = pictures / "images" / "02.png"
    with pytest.raises(WavedilError, match="refine is for one class per pixel"):
        predict(load(run / "model"), read_image(image), refine=DenseCRF())
    for words in (
        ["segment", str(run), str(image), "--out", str(tmp_path / "x")],
        ["evaluate", str(run), str(pictures)],
    ):
        for option in (["--crf"], ["--crf-preset", "densecrf"]):
            assert main([*words, *option]) == 2
            message = capsys.readouterr().err
            assert "crf and crf_preset are for one class per pixel" in message and message.count("\n") == 1
    assert main(["evaluate", str(run), str(pictures), "--confusion", str(tmp_path / "c.png")]) == 2
    assert "confusion is" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_probabilities_are_sigmoids_and_models_save():
    torch.manual_seed(0)
    model = MultilabelSegmenter(SmallBackbone(8, 4), Conv1x1Head(8, 2), num_classes=2, classes=["a", "b"]).eval()
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    scores = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].detach()
    np.testing.assert_allclose(predict(model, image, probabilities=True), scores.sigmoid().numpy(), atol=1e-5)
    assert (predict(model, image) == (scores >= 0).numpy()).all()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("masks/warm/03.png", [], "03"),
        ("masks/warm", ["--data.classes=[warm,cold]"], "warm is not a folder|warm"),
        (None, ["--data.classes=[warm,a/b]"], "classes has 'a/b': expected the name of a folder"),
        (None, ["--data.classes=[warm,WARM]"], "expected different names"),
        (None, ["--data.ignore_label=-1"], "ignore_label is -1"),
        (None, ["--model.loss=CrossEntropy"], "use BinaryCrossEntropy"),
        (None, ["--data.masks=images"], "no folder for each class"),
        (None, ["--data.classes=[]"], "classes has 0 names: expected 1 to 23"),
    ],
)
def test_bad_data_are_refused_in_one_line(tmp_path, pictures, recipe, change, options, message):
    root = pictures
    if change is not None:
        root = tmp_path / "data"
        shutil.copytree(pictures, root)
        (shutil.rmtree if (root / change).is_dir() else lambda path: path.unlink())(root / change)
    with pytest.raises(WavedilError, match=message) as error:
        train(recipe, out=str(tmp_path / "run"), overrides=[f"--data.root={root}", *options])
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_the_data_modules_are_not_mixed_up(tmp_path, pictures, recipe):
    with pytest.raises(WavedilError, match="--data is MultilabelData, whose batches SegmentationModule cannot use"):
        train(recipe, out=str(tmp_path / "run"), overrides=[
            f"--data.root={pictures}", "--model=wavedil.train.SegmentationModule", "--model.backbone=SmallBackbone",
        ])  # fmt: skip


def test_a_mask_of_another_size_is_named(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    Image.new("L", (3, 4)).save(tmp_path / "data" / "masks" / "warm" / "05.png")
    with pytest.raises(WavedilError, match=r"warm/05.png is 3 x 4 pixels and its image .* 30 x 24"):
        bits(tmp_path / "data", 0)


def test_figures_of_absent_classes_are_none():
    assert finite(torch.tensor([float("nan"), 0.5])) == [None, 0.5]


def test_classes_that_cannot_be_learned_are_warned_of(tmp_path, pictures, recipe, capsys):
    root, quick = tmp_path / "data", ["--trainer.max_steps=1", "--data.valid_images=1", "--samples.num=1"]
    shutil.copytree(pictures, root)
    for path in (root / "masks" / "warm").iterdir():
        write_image(path, np.zeros((24, 30), np.uint8))
    for path in (root / "masks" / "go & see").iterdir():
        write_image(path, np.full((24, 30), 7, np.uint8))
    train(recipe, out=str(tmp_path / "run"), overrides=[f"--data.root={root}", *quick])
    text = capsys.readouterr().err
    assert "warning: all pixels that are not ignored are of class go & see: nothing else" in text
    assert "warning: classes without pixels: warm\n" in text


def test_the_built_in_images_have_pixels_of_several_classes_and_of_none(tmp_path):
    folder = overlaps.make_overlaps(tmp_path / "data", 3, 1, 48)
    names = class_folders(folder / "train" / "masks")
    assert names == sorted(overlaps.CLASSES)
    pairs = find_multilabel_pairs(lambda layout: find_pairs(folder / "train", layout), FolderLayout(), names, None)
    several = MultilabelDataset(pairs, len(names))[1]["labels"].sum(0)
    assert several.min() == 0 and several.max() > 1
    assert (overlaps.draw(48, np.random.default_rng([0, 0, 1]))[1].sum(0) == several.numpy()).all()


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("multilabel", "--data.classes=[disc,blob]", "classes is ['disc', 'blob'], but the built-in images"),
        ("multilabel", "--data.ignore_label=0", "ignore_label is 0, but the built-in images"),
        ("tiny", "--data.mask_values=[0,1]", "mask_values is [0, 1], but the built-in images"),
        ("tiny", "--data.classes=7", "classes is 7, but the built-in images"),
        ("tiny", "--data.ignore_label=null", "ignore_label is None, but the built-in images"),
        ("depth", "--data.step=0.5", "step is 0.5, but the built-in images"),
        ("volumes", "--data.classes=2", "classes is 2, but the built-in volumes"),
    ],
)
def test_classes_of_built_in_data_cannot_be_replaced(tmp_path, name, option, message):
    with pytest.raises(WavedilError) as error:
        build(find_recipe(name), tmp_path, [option])
    assert message in str(error.value) and "set root, or leave it out" in str(error.value)
