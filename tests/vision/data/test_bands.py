"""Images with one band, 16 bits or four bands: from the file to the prediction without loss, and errors of others."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train.previews.images import panel
from wavedil.vision import (
    CRFRNN,
    Conv1x1Head,
    PixelUnshuffle,
    Segmenter,
    SmallBackbone,
    load,
    predict,
    read_image,
    save,
)
from wavedil.vision.data.check import check_images
from wavedil.vision.data.dataset import SegmentationDataset
from wavedil.vision.data.image_crops import RandomImageCrops
from wavedil.vision.data.images import image_size
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.data.pairs import find_pairs
from wavedil.vision.data.pixels import full_scale, resize, scaled_pixels, to_rgb

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (6, 9, 1), dtype=np.uint16)
FOUR = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)


def four_bands(path, pixels, extra):
    """Writes a TIFF with any number of bands; ``extra`` are its ExtraSamples: 0 unspecified, 1 and 2 alpha."""
    (height, width, bands), data = pixels.shape, pixels.tobytes()
    tags = [(256, width), (257, height), (258, None), (259, 1), (262, 2), (273, None), (277, bands), (278, height)]
    tags += [(279, len(data)), (284, 1)]
    end = 8 + 2 + 12 * (len(tags) + 1) + 4
    out = b"II*\0" + struct.pack("<IH", 8, len(tags) + 1)
    for tag, value in tags:
        kind, count = (3, bands) if tag == 258 else (4, 1)
        value = end if tag == 258 else end + 2 * bands if tag == 273 else value
        out += struct.pack("<HHII", tag, kind, count, value)
    out += (
        struct.pack("<HHIHH", 338, 3, len(extra), *(*extra, 0)[:2]) + bytes(4) + struct.pack(f"<{bands}H", *[8] * bands)
    )
    path.write_bytes(out + data)
    return path


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_gray_images_of_16_bits_are_read_as_they_are(tmp_path, name):
    Image.fromarray(DEEP[..., 0]).save(tmp_path / name)
    for channels in (1, None):
        found = read_image(tmp_path / name, channels)
        assert found.dtype == np.uint16 and (found == DEEP).all()
    for channels in (3, 4):
        with pytest.raises(WavedilError, match=f"{name} .*in_channels"):
            read_image(tmp_path / name, channels)


@pytest.mark.parametrize(("name", "extra"), [("x.png", None), ("x.tif", None), ("nir.tif", (0,)), ("alpha.tif", (2,))])
def test_four_bands_are_read_as_they_are(tmp_path, name, extra):
    path = tmp_path / name
    Image.fromarray(FOUR).save(path) if extra is None else four_bands(path, FOUR, extra)
    assert (read_image(path, 4) == FOUR).all() and (read_image(path, None) == FOUR).all()
    assert image_size(path) == FOUR.shape[:2]
    for channels in (1, 3):
        with pytest.raises(WavedilError, match=f"{name} .*(in_channels|transparent)"):
            read_image(path, channels)


def test_gray_images_of_8_bits(tmp_path):
    Image.fromarray(FOUR[..., 0]).save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png", 1) == FOUR[..., :1]).all()
    assert (read_image(tmp_path / "x.png") == FOUR[..., [0, 0, 0]]).all()
    Image.fromarray(FOUR[..., 0] > 99).save(tmp_path / "bit.png")
    assert (read_image(tmp_path / "bit.png", 1)[..., 0] == 255 * (FOUR[..., 0] > 99)).all()


@pytest.mark.parametrize(
    ("write", "channels", "message"),
    [
        (lambda path: four_bands(path, FOUR, (1,)), 4, "multiplied by alpha"),
        (lambda path: four_bands(path, RNG.integers(0, 9, (4, 4, 5), dtype=np.uint8), (0, 0)), 4, "has 5 bands"),
        (lambda path: four_bands(path, RNG.integers(0, 9, (4, 4, 5), dtype=np.uint8), (0, 0)), 3, "has 5 bands"),
        (lambda path: Image.fromarray(FOUR[..., :3]).save(path), 4, "color mode RGB, and the network takes 4 bands"),
        (lambda path: Image.fromarray(FOUR[..., :3]).save(path), 1, "color mode RGB, and the network takes 1 band"),
        (lambda path: Image.fromarray(FOUR[..., 0]).save(path), 2, "takes 2 bands: expected 1, 3 or 4"),
        (lambda path: Image.fromarray(DEEP[..., 0].astype(np.float32)).save(path), 1, "color mode F"),
        (lambda path: Image.fromarray(DEEP[..., 0].astype(np.int32) + 65536).save(path), 1, "expected 0 to 65535"),
    ],
)
def test_other_bands_are_refused(tmp_path, write, channels, message):
    write(tmp_path / "x.tif")
    with pytest.raises(WavedilError, match=f"x.tif.*{message}|{message}.*x.tif"):
        read_image(tmp_path / "x.tif", channels)


def test_bands_do_not_mix_when_an_image_is_resized():
    pixels = FOUR.copy()
    pixels[..., 3] = 0  # as alpha, it would make the other bands black
    assert (resize(pixels, (3, 4))[..., :3] == resize(np.ascontiguousarray(pixels[..., :3]), (3, 4))).all()
    constant = np.full((8, 8, 1), 40001, np.uint16)
    assert (resize(constant, (5, 3)) == 40001).all() and resize(constant, (5, 3)).dtype == np.uint16


def test_pixels_are_divided_by_the_largest_value_of_their_type():
    assert full_scale(DEEP) == 65535 and full_scale(torch.from_numpy(FOUR)) == 255
    torch.testing.assert_close(scaled_pixels(DEEP)[0], torch.from_numpy(DEEP[..., 0].astype(np.float32) / 65535))
    shown = to_rgb(np.array([[[300], [310], [400]]], np.uint16))
    assert shown.dtype == np.uint8 and shown[0, :, 1].tolist() == [0, 26, 255] and to_rgb(FOUR).shape == (6, 9, 3)


def write_deep(folder, suffix="png"):
    """Classes differ by values that 8 bits do not show."""
    for index in range(4):
        labels = np.kron(np.random.default_rng(index).integers(0, 2, (4, 5)), np.ones((8, 8))).astype(np.uint8)
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(folder / "masks" / f"{index}.png")
        Image.fromarray(1000 + 100 * labels.astype(np.uint16)).save(folder / "images" / f"{index}.{suffix}")
    return folder


def test_crops_and_statistics_of_16_bits(tmp_path):
    images = SegmentationDataset(find_pairs(write_deep(tmp_path)), LabelScheme(["a", "b"]), channels=1)
    for index in range(4):
        item = RandomImageCrops(images, (40, 48), scales=(1, 1))[index]
        known = item["labels"] != 255
        expected = (1000 + 100 * item["labels"][known]) / 65535
        torch.testing.assert_close(item["image"][0, known], expected.float())
        assert item["image"].shape == (1, 40, 48)
        assert 1000 <= item["image"][0, ~known].min() * 65535 <= 1100  # padded with the mean
    mean, deviation = images.band_statistics()
    assert len(mean) == 1 and 1000 < mean[0] * 65535 < 1100 and 40 < deviation[0] * 65535 < 51


def threshold_model(bands, band, value):
    """Class 1 where a band is above a value, in [0, 1]."""
    model = Segmenter(PixelUnshuffle(1, bands), Conv1x1Head(bands, 2), num_classes=2, mean=[0] * bands, std=[1] * bands)
    with torch.no_grad():
        conv = next(module for module in model.head.modules() if hasattr(module, "weight"))
        conv.weight.zero_(), conv.bias.zero_()
        conv.weight.view(2, bands)[1, band], conv.bias[1] = 1e4, -1e4 * value
    return model.eval()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_evaluation_and_labels_of_16_bits(tmp_path, suffix, capsys):
    data = write_deep(tmp_path / "data", suffix)
    save(threshold_model(1, 0, 1050 / 65535), tmp_path / "model")
    assert main(["evaluate", str(tmp_path / "model"), str(data)]) == 0
    assert "accuracy 1.0000" in capsys.readouterr().out
    assert main(["segment", str(tmp_path / "model"), str(data / "images"), "--out", str(tmp_path / "out")]) == 0
    for index in range(4):
        labels, truth = (np.array(Image.open(path / f"{index}.png")) for path in (tmp_path / "out", data / "masks"))
        assert (labels == truth).all()
    assert main(["segment", str(tmp_path / "model"), str(data / "images"), "--out", str(tmp_path / "b"), "--crf"]) == 2
    assert "crf_preset need the colors of RGB images" in capsys.readouterr().err
    assert not check_images(data).paths(["broken"])


def test_prediction_of_four_bands_from_arrays_pillow_and_tiles():
    model = threshold_model(4, 3, 0.5)
    expected = FOUR[..., 3] > 127
    assert (predict(model, FOUR) == expected).all() and (predict(model, FOUR, tile=2) == expected).all()
    assert (predict(model, Image.fromarray(FOUR)) == expected).all() and (
        predict(model, FOUR, flip=True) == expected
    ).all()
    assert panel(model, FOUR, expected.astype(np.uint8)).shape == (6, 3 * 9 + 8, 3)
    gray = threshold_model(1, 0, 0.5)
    for image in (DEEP, DEEP[..., 0], Image.fromarray(DEEP[..., 0])):
        assert (predict(gray, image) == (DEEP[..., 0] > 32767)).all()
    with pytest.raises(WavedilError, match=r"expected uint8 or uint16 of shape \(height, width, 4\)"):
        predict(model, FOUR[..., :3])
    with pytest.raises(WavedilError, match=r"image is uint16 .*expected uint8 of shape \(height, width, 3\)"):
        predict(threshold_model(3, 0, 0.5), np.repeat(DEEP, 3, 2))


def test_networks_with_other_bands_are_saved_and_loaded(tmp_path):
    model = Segmenter(SmallBackbone(8, 4, in_channels=4), Conv1x1Head(8, 2), num_classes=2).eval()
    assert model.in_channels == 4 and model.mean.flatten().tolist() == [0.5] * 4
    save(model, tmp_path / "model")
    again, image = load(tmp_path / "model"), torch.rand(1, 4, 9, 7)
    assert torch.equal(again(image), model(image))
    with pytest.raises(WavedilError, match=r"expected floats in \[0, 1\] of shape \(batch, 4, height, width\)"):
        model(image[:, :3])
    with pytest.raises(WavedilError, match="expected 1 numbers each|expected 1 .*band"):
        Segmenter(PixelUnshuffle(1, 1), Conv1x1Head(1, 2), num_classes=2, mean=[0, 0])
    with pytest.raises(WavedilError, match="refinement is a CRFRNN and the backbone has in_channels 1"):
        Segmenter(PixelUnshuffle(1, 1), Conv1x1Head(1, 2), refinement=CRFRNN(2), num_classes=2)


def test_training_measures_the_mean_of_other_bands(tmp_path):
    from wavedil.train.run import train

    options = ["--model.backbone.channels=8", "--model.context=null", "--data.crop=[16, 16]", "--data.batch_size=2"]
    options += ["--model.backbone.in_channels=1", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    run = train("tiny", str(tmp_path / "run"), overrides=[*options, f"--data.root={write_deep(tmp_path / 'data')}"])
    model = load(run / "model")
    assert 1000 < float(model.mean) * 65535 < 1100
    with pytest.raises(WavedilError, match="takes RGB of 8 bits: .* set in_channels of the backbone to 1"):
        train("tiny", str(tmp_path / "no"), overrides=[*options, "--model.backbone.in_channels=3",
              f"--data.root={tmp_path / 'data'}"])  # fmt: skip
