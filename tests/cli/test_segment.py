"""``wavedil segment``, ``evaluate`` and ``inspect`` with models of images."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from wavedil.audio import WaveNet
from wavedil.extras import install_extra
from wavedil.vision import (
    ASPP,
    BoundaryF1,
    ContextModule,
    Conv1x1Head,
    DenseCRF,
    Segmenter,
    SmallBackbone,
    predict,
    read_image,
    save,
)
from wavedil.vision.data.images import read_mask, write_image, write_labels
from wavedil.vision.metrics import finite
from wavedil.vision.prediction import probabilities

PALETTE = ((10, 20, 30), (200, 0, 0), (0, 200, 0))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    options = {"num_classes": 3, "classes": ["ground", "road", "car"], "palette": PALETTE}
    context = ContextModule(3, dilations="1,2", init="random")
    model = Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), context, ignore_label=9, scale=0.5, **options)
    save(model.eval(), folder / "model")
    save(Segmenter(SmallBackbone(8, 4), ASPP(8, 3, (1, 2), 4), **options), folder / "pooled")
    save(WaveNet(8, 8, "1..8", sample_rate=8000), folder / "sound")
    save(context, folder / "part")
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(folder / "deep.png")
    Image.fromarray(np.full((9, 9, 4), 90, np.uint8)).save(folder / "hidden.png")
    return model, folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for index in range(11):
        generator = np.random.default_rng(index)
        write_image(folder / "images" / f"{index:02d}.png", generator.integers(0, 256, (26, 38, 3), dtype=np.uint8))
        labels = np.full((26, 38), index % 3, np.uint8)
        labels[:6] = 9
        write_labels(folder / "masks" / f"{index:02d}.png", labels, PALETTE)
    return folder


def test_segment(run, tmp_path, models, data):
    model, folder = models
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "in" / name).write_bytes((data / "images" / "00.png").read_bytes())
    single = data / "images" / "03.png"
    result = json.loads(run("segment", folder / "model", tmp_path / "in", single, "--out", tmp_path / "out").out)
    assert [file["labels"] for file in result["files"]] == [
        str(tmp_path / "out" / name) for name in ("a.png", "sub/b.png", "03.png")
    ]
    assert result["classes"] == ["ground", "road", "car"] and result["pixels_per_second"] > 0
    labels = read_mask(tmp_path / "out" / "03.png", colors=False)
    assert labels.shape == (26, 38) and (labels == predict(model, read_image(single))).all()
    with Image.open(tmp_path / "out" / "03.png") as picture:
        assert picture.mode == "P" and picture.getpalette()[:9] == [part for color in PALETTE for part in color]
    assert read_image(tmp_path / "out" / "sub" / "b_overlay.png").shape == (26, 38, 3)
    options = ("--tile", 16, "--scales", 0.75, 1, "--flip")
    run("segment", folder / "model", single, "--out", tmp_path / "more", *options)
    expected = predict(model, read_image(single), scales=(0.75, 1), flip=True)
    assert (read_mask(tmp_path / "more" / "03.png", colors=False) == expected).all()


@pytest.fixture
def varied():
    """A model that predicts several classes in an image."""
    torch.manual_seed(0)
    classes = ["ground", "road", "car"]
    model = Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), num_classes=3, classes=classes, ignore_label=9, scale=0.5)
    torch.nn.init.normal_(model.head.score.weight, std=20)  # or one class is the likeliest everywhere
    torch.nn.init.zeros_(model.head.score.bias)
    return model.eval()


def test_the_dense_crf_refines_probabilities_by_the_image(run, tmp_path, data, varied):
    model, folder, path = varied, tmp_path, data / "images" / "03.png"
    save(model, folder / "model")
    image = read_image(path)
    run("segment", folder / "model", path, "--out", tmp_path, "--crf")
    labels = read_mask(tmp_path / "03.png", colors=False)
    expected = DenseCRF()(image, probabilities(model, image)).argmax(0)
    assert (labels == expected).all() and (labels != predict(model, image)).any()
    right = json.loads(run("evaluate", folder / "model", data, "--validation", "^03", "--crf", "--json").out)
    assert right["accuracy"] == pytest.approx(float((expected[6:] == 0).mean()))
    run("segment", folder / "model", path, "--out", tmp_path / "other", "--crf-preset", "deeplab_v2_resnet101")
    other = DenseCRF.preset("deeplab_v2_resnet101")(image, probabilities(model, image)).argmax(0)
    assert (read_mask(tmp_path / "other" / "03.png", colors=False) == other).all() and (other != expected).any()


def test_without_pillow_the_extra_is_named(refused, monkeypatch, models, data):
    monkeypatch.setitem(sys.modules, "PIL", None)
    message = refused("segment", models[1] / "model", data / "images" / "03.png")
    assert f"PIL is not installed: {install_extra('vision')}" in message


def test_evaluate(run, tmp_path, models, data):
    model, folder = models
    result = json.loads(run("evaluate", folder / "model", data, "--json").out)
    assert (result["count"], result["images"]) == (11 * 20 * 38, 11) and 0 <= result["mean_iou"] <= 1
    assert "TP / (TP + FP + FN)" in result["definition"] and "ignore label 9" in result["definition"]
    assert list(result["classes"]) == ["ground", "road", "car"]
    right = sum(
        int((predict(model, read_image(data / "images" / f"{index:02d}.png"))[6:] == index % 3).sum())
        for index in range(11)
    )
    assert result["accuracy"] == pytest.approx(right / result["count"])
    assert {name: figures["iou"] for name, figures in result["per_class"].items()} == result["classes"]
    assert result["boundary_f1"] is None  # each of these masks has one class
    held = json.loads(run("evaluate", folder / "model", data, "--json", "--held-out", "--scaled").out)
    assert (held["count"], held["images"]) == (2 * 10 * 19, 2) and "resized by 0.5" in held["definition"]
    for part, first in (("train", 0), ("val", 8)):  # in a folder of parts, those of val are held out
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
            for index in range(first, first + 3):
                name = f"{kind}/{index:02d}.png"
                (tmp_path / part / name).write_bytes((data / name).read_bytes())
    parts = json.loads(run("evaluate", folder / "model", tmp_path, "--json", "--held-out").out)
    assert parts == json.loads(run("evaluate", folder / "model", tmp_path / "val", "--json").out)
    text = run("evaluate", folder / "model", data, "--validation", "^0[0-2]").out
    assert "road" in text and "mean IoU" in text and "over 2,280 pixels of 3 images" in text
    assert text.split()[:6] == ["IoU", "recall", "precision", "F1", "boundary", "F1"]


def test_boundaries_and_the_picture_of_the_confusion_matrix(run, refused, tmp_path, data, varied):
    save(varied, tmp_path / "model")
    boundary = BoundaryF1(3, 0.05)
    for index in range(3):
        image = read_image(data / "images" / f"{index:02d}.png")
        labels = np.roll(predict(varied, image), index, 1)
        labels[:, :9] = index
        write_image(tmp_path / "in" / "images" / f"{index}.png", image)
        write_labels(tmp_path / "in" / "masks" / f"{index}.png", labels, PALETTE)
        boundary.update(predict(varied, image), labels)
    words = ["evaluate", tmp_path / "model", tmp_path / "in", "--json", "--records", tmp_path / "records"]
    options = ["--boundary-tolerance", 0.05, "--confusion", tmp_path / "pictures" / "confusion.png"]
    first = json.loads(run(*words, *options).out)
    assert [figures["boundary_f1"] for figures in first["per_class"].values()] == finite(boundary.scores)
    assert 0 < first["boundary_f1"] == pytest.approx(boundary.mean)
    assert "less than 5 % of the image's diagonal" in first["definitions"]["boundary_f1"]
    with Image.open(options[3]) as picture:
        assert min(picture.size) > 300
    options[3] = tmp_path / "confusion.svg"
    assert json.loads(run(*words, *options).out) == first  # from the records
    text = options[3].read_text()
    assert all(f"<!-- {name} -->" in text for name in ("ground", "road", "car", "predicted class"))
    assert "has results with another boundary_tolerance" in refused(*words, "--boundary-tolerance", 0.1)


def test_inspect(run, models):
    _, folder = models
    info = json.loads(run("inspect", folder / "model", "--json").out)
    assert (info["receptive_field"], info["output_stride"], info["dilations"]) == (45, 4, [1, 2])
    assert (info["holes"], info["hdc_m2"]) == (0, 2) and info["path_ratio"] == 4  # paths 1 1 2 1 2 1 1 along each axis
    by_hand = info["parts"]["context"]["parameters"]
    assert by_hand == 2 * (3 * 3 * 9 + 3) + 3 * 3 + 3
    # Convolutions by their outputs per pixel: full, half and quarter resolution.
    backbone = 9 * (3 * 2 + (2 * 4 + 4 * 4) / 4 + (4 * 8 + 8 * 8) / 16)
    assert info["multiply_adds"] == int(backbone + (8 * 3 + 2 * 9 * 9 + 9) / 16)
    assert "45 x 45 pixels" in run("inspect", folder / "model").out
    pooled = json.loads(run("inspect", folder / "pooled", "--json").out)
    assert pooled["receptive_field"] is None and pooled["dilations"] is None
    assert "the full image" in run("inspect", folder / "pooled").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["segment", "{models}/model", "nowhere.png"], "nowhere.png does not exist"),
        (["segment", "nowhere", "{data}/images/00.png"], "nowhere does not exist: expected a model folder"),
        (["segment", "{models}/sound", "{data}/images/00.png"], "holds a WaveNet, which does not label images"),
        (["segment", "{models}/part", "{data}/images/00.png"], "holds a ContextModule, which does not label images"),
        (["evaluate", "{models}/part", "{data}"], "holds a ContextModule, which has no evaluation"),
        (["inspect", "{models}/part"], "inspect its schedule instead"),
        (
            ["train", "-c", "context", "--model.init", "{models}/part"],
            "holds a ContextModule: expected a Segmenter or Regressor",
        ),
        (["segment", "{models}/model", "{models}/deep.png"], "deep.png has more than 8 bits per channel"),
        (["segment", "{models}/model", "{models}/hidden.png"], "hidden.png has transparent pixels"),
        (["segment", "{models}/model", "{models}/part"], "has no images"),
        (["segment", "{models}/model", "{data}/images/00.png", "--scales", "nan"], "scales"),
        (
            ["segment", "{models}/model", "{data}/images/00.png", "--crf-preset", "voc"],
            "--crf-preset is 'voc': expected one of densecrf",
        ),
        (["segment", "{models}/pooled", "{data}/images/00.png", "--tile", "8"], "full image"),
        (["segment", "{models}/model", "{data}/images/00.png", "--tile", "0"], "tile is 0"),
        (["segment", "{models}/model", "{data}/images/00.png", "{data}/masks/00.png"], "both be written as 00.png"),
        (["segment", "{models}/model", "{data}/images/00.png", "--scales", "0"], "scales"),
        (
            ["segment", "{models}/model", "{data}/images/00.png", "--out", "{data}/images/00.png"],
            "not a writable directory",
        ),
        (["segment", "{models}/model", "{data}/images/00.png", "--device", "abacus"], "abacus"),
        (["segment", "{models}/model"], "IMAGE"),
        (["sample", "{models}/model"], "holds a Segmenter, which generates nothing: expected a WaveNet"),
        (["evaluate", "{models}/model", "nowhere"], "nowhere"),
        (["evaluate", "{models}/model", "{data}", "--masks", "truth"], "truth is not a folder"),
        (["evaluate", "{models}/model", "{data}", "--validation", "zzz"], "none of the images"),
        (["evaluate", "{models}/model", "{data}", "--exclude", "0"], "leaves out all"),
        (
            ["evaluate", "{models}/model", "{data}", "--confusion", "c.jpg"],
            "c.jpg: expected a file name that ends with",
        ),
        (["evaluate", "{models}/model", "{data}", "--confusion", "{data}/c.png"], "is in the input folder"),
        (["evaluate", "{models}/model", "{data}", "--confusion", "{models}/model/c.png"], "in a model folder"),
        (["evaluate", "{models}/model", "{data}", "--confusion", "{models}"], "is a folder: expected a file"),
        (
            ["evaluate", "{models}/model", "{data}", "--confusion", "{models}/model/config.json/c.png"],
            "is a file, expected a folder",
        ),
        (["evaluate", "{models}/model", "{data}", "--confusion", ""], "--confusion is empty: expected a value"),
        (["evaluate", "{models}/model", "{data}", "--boundary-tolerance", "0"], "--boundary-tolerance is 0"),
        (
            ["evaluate", "{models}/sound", "{data}", "--image-ending", "x"],
            "--image-ending is not an option",
        ),
        (["evaluate", "{models}/pooled", "{data}"], "value 9 at row 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(refused, tmp_path, monkeypatch, models, data, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*[word.format(models=models[1], data=data) for word in words])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        (["a.png", "a.jpg"], "out", "would both be written as a.png"),
        (["a.png", "a_overlay.png"], "out", "would both be written as a_overlay.png"),
        (["a.png"], "in", "is the input"),
        (["x" * 251 + ".png"], "out", "a name of more than 255 bytes: rename it"),
    ],
)
def test_results_replace_no_image_and_no_other_result(refused, tmp_path, models, data, names, out, message):
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes((data / "images" / "00.png").read_bytes())
    before = (tmp_path / "in" / names[0]).read_bytes()
    assert message in refused("segment", models[1] / "model", tmp_path / "in", "--out", tmp_path / out)
    assert (tmp_path / "in" / names[0]).read_bytes() == before and not list((tmp_path / "in").glob("*.png.*"))


def test_a_turned_image_gets_a_label_map_as_it_is_displayed(run, tmp_path, models):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    run("segment", models[1] / "model", tmp_path / "a.png", "--out", tmp_path / "out")
    labels = read_mask(tmp_path / "out" / "a.png", colors=False)
    assert labels.shape == (20, 12) and read_image(tmp_path / "out" / "a_overlay.png").shape == (20, 12, 3)
    assert (labels == predict(models[0], np.rot90(pixels, -1).copy())).all()


def test_probabilities_are_written(models, data, tmp_path, run):
    path = data / "images" / "03.png"
    result = json.loads(run("segment", models[1] / "model", path, "--out", tmp_path, "--probabilities").out)
    found = np.load(result["files"][0]["probabilities"])
    labels = read_mask(tmp_path / "03.png", colors=False)
    assert found.dtype == np.float32 and (found.argmax(0) == labels).all() and found.shape == (3, *labels.shape)
