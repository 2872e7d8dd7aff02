"""Prediction: tiles give the result of the full image; scales and mirror images are aligned before averaging."""

import numpy as np
import pytest
import torch
from torch import nn

from wavedil.errors import WavedilError
from wavedil.vision import (
    ASPP,
    CRFRNN,
    ContextModule,
    Conv1x1Head,
    FCN8s,
    ParallelDilations,
    Segmenter,
    SmallBackbone,
    TimmBackbone,
    UNet,
    VGGFrontEnd,
    load,
    save,
    to_dense,
)
from wavedil.vision.data.dataset import ImagePair
from wavedil.vision.data.images import write_image, write_labels
from wavedil.vision.data.palette import default_palette
from wavedil.vision.data.pixels import resize
from wavedil.vision.evaluation import evaluate
from wavedil.vision.prediction import predict, probabilities
from wavedil.vision.tiles import score_map, tile_margin


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def randomized(model):
    """Float64, with random weights and statistics, so that every layer changes the result."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator), module.running_var.uniform_(0.5, 2, generator=generator)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator) + 0.3 * (parameter.ndim == 1)
    return model.double().eval()


def small(**options):
    torch.manual_seed(0)
    return randomized(
        Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), ContextModule(3, dilations="1,2"), num_classes=3, **options)
    )


class Pyramid(SmallBackbone):
    """Feature maps of strides 2 and 4, the first by an even kernel, whose receptive field is not centered."""

    channels, output_stride, level_channels, receptive_field = 6, 4, (4, 6), 16

    def __init__(self):
        nn.Module.__init__(self)
        self.fine, self.coarse = nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 6, 5, 2, 2)

    def forward(self, x):
        fine = self.fine(x).relu()
        return [fine, self.coarse(fine).relu()]


MODELS = {
    "small": small,
    "center": lambda: small(align="center"),
    "reflecting context": lambda: randomized(
        Segmenter(
            SmallBackbone(8, 4), Conv1x1Head(8, 3), ContextModule(3, dilations="1,2", pad_mode="reflect"), num_classes=3
        )
    ),
    "parallel": lambda: randomized(Segmenter(SmallBackbone(8, 8), ParallelDilations(8, 3), num_classes=3)),
    "small U-Net": lambda: randomized(
        Segmenter(SmallBackbone(16, 8, levels=True), UNet((2, 4, 8, 16), 3, (4, 3, 2)), num_classes=3)
    ),
    "two maps": lambda: randomized(Segmenter(Pyramid(), UNet((4, 6), 3, (4,)), num_classes=3)),
    "classifier made dense": lambda: randomized(
        Segmenter(TimmBackbone("test_resnet", output_stride=8), Conv1x1Head(96, 3), num_classes=3)
    ),
    "FCN-8s": lambda: randomized(
        Segmenter(
            VGGFrontEnd(None, widths=(2,) * 5, hidden_channels=4, stride=32, padding="same", levels=True),
            FCN8s((2, 2, 4), 3),
            num_classes=3,
        )
    ),
    "front end": lambda: randomized(
        Segmenter(VGGFrontEnd(None, widths=(2,) * 5, hidden_channels=4), Conv1x1Head(4, 3), num_classes=3)
    ),
    "front end and context": lambda: randomized(
        Segmenter(
            VGGFrontEnd(None, widths=(2,) * 5, hidden_channels=4), Conv1x1Head(4, 3), ContextModule(3), num_classes=3
        )
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_tiles_give_the_scores_of_the_full_image(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    size = {"front end": (230, 217), "front end and context": (220, 600)}.get(name, (141, 118))
    image = torch.from_numpy(noise(*size)).permute(2, 0, 1)
    full, stride = score_map(model, image)
    assert float(full.std()) > 1e-3
    for tile in (200,) if "front end" in name else (7, 64):
        tiled, cells = score_map(model, image, tile)
        assert cells == stride
        torch.testing.assert_close(tiled, full, rtol=1e-9, atol=1e-12)


def test_tiles_with_a_refinement():
    plain = small(scale=0.5)
    parts = {"backbone": plain.backbone, "head": plain.head, "context": plain.context}
    crf = CRFRNN(3, 3, gaussian_weight=0.1, bilateral_sxy=20.0, bilateral_srgb=40.0).double()
    model = Segmenter(**plain.config | parts | {"refinement": crf}).double().eval()
    image = noise(96, 118)
    pixels = torch.from_numpy(resize(image, (48, 59))).permute(2, 0, 1)
    full = probabilities(model, resize(image, (48, 59)), scaled=True)
    np.testing.assert_allclose(full, model(pixels[None] / 255).softmax(1)[0].detach().numpy(), rtol=1e-6)
    assert (full.argmax(0) != predict(plain, resize(image, (48, 59)), scaled=True)).mean() > 0.01
    np.testing.assert_allclose(probabilities(model, image, tile=16), probabilities(model, image), rtol=1e-6)


def test_a_smaller_tile_margin_changes_the_scores(monkeypatch):
    """So the tests of tiles can fail."""
    model = small()
    image = torch.from_numpy(noise(141, 118)).permute(2, 0, 1)
    full, _ = score_map(model, image)
    enough = tile_margin(model)
    monkeypatch.setattr("wavedil.vision.tiles.tile_margin", lambda model: enough - 8)
    assert not torch.allclose(score_map(model, image, 32)[0], full, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [(40, 32), (37, 26), (3, 5)])
@pytest.mark.parametrize("align", ["center", "corner"])
def test_probabilities_equal_the_softmax_of_the_network(size, align, monkeypatch):
    model, image = small(align=align), noise(*size)
    pixels = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.inference_mode():
        expected = model(pixels.double())[0].softmax(0).numpy()
    monkeypatch.setattr("wavedil.vision.prediction.MAX_UPSAMPLED", 3 * size[1] * 5)  # five rows at a time
    for options in ({}, {"tile": 8}):
        np.testing.assert_allclose(probabilities(model, image, **options), expected, rtol=1e-6)
        assert (predict(model, image, **options) == expected.argmax(0)).all()


def test_mirror_images_are_flipped_back_before_averaging():
    model, image = small(), noise(37, 26)
    plain = probabilities(model, image)
    mirrored = probabilities(model, np.ascontiguousarray(image[:, ::-1]))[:, :, ::-1]
    np.testing.assert_allclose(probabilities(model, image, flip=True), (plain + mirrored) / 2, rtol=1e-9)
    assert abs(plain - mirrored).max() > 1e-3


def test_scales_are_aligned_before_averaging():
    model = small()
    image = noise(32, 48)
    double = resize(image, (64, 96))
    with torch.inference_mode():
        large = model((torch.from_numpy(double).permute(2, 0, 1).unsqueeze(0) / 255).double())
    # The center of each pixel is the center of 2 x 2 pixels of the larger image.
    scores = nn.functional.avg_pool2d(large, 2)[0].softmax(0).numpy()
    inner = (slice(None), slice(4, -4), slice(4, -4))
    both = probabilities(model, image, scales=(1, 2))
    expected = (probabilities(model, image) + scores) / 2
    np.testing.assert_allclose(both[inner], expected[inner], atol=2e-3)
    assert abs(both - probabilities(model, image)).max() > 1e-2


def test_the_scale_of_the_model():
    half, full, image = small(scale=0.5), small(), noise(32, 48)
    assert probabilities(half, image).shape == (3, 32, 48)
    small_image = resize(image, (16, 24))
    np.testing.assert_allclose(
        probabilities(half, small_image, scaled=True), probabilities(full, small_image), rtol=1e-9
    )
    # The larger map is the smaller one, upsampled.
    at_centers = probabilities(half, image)[:, 1::2, 1::2]
    assert abs(at_centers - probabilities(half, small_image, scaled=True)).mean() < 0.02


def test_refine_gets_image_and_probabilities():
    model, image, seen = small(), noise(20, 24), []

    def refine(image, probabilities):
        seen.extend([image, probabilities])
        return torch.from_numpy(probabilities).flip(0)

    labels = predict(model, image, refine=refine)
    assert seen[0] is image and seen[1].dtype == np.float32
    np.testing.assert_allclose(seen[1], probabilities(model, image), rtol=1e-5)
    assert (labels == seen[1][::-1].argmax(0)).all() and labels.dtype == np.uint8


def test_large_images_are_tiled_by_default(monkeypatch):
    model, image, done = small(), noise(60, 50), []
    full = predict(model, image)
    monkeypatch.setattr("wavedil.vision.prediction.MAX_UNTILED_PIXELS", 2000)
    monkeypatch.setattr("wavedil.vision.prediction.DEFAULT_TILE", 16)
    assert (predict(model, image, progress=lambda *n: done.append(n)) == full).all() and len(done) == 16
    pooled = randomized(Segmenter(SmallBackbone(8, 4), ASPP(8, 3, (1, 2), 4), num_classes=3))
    predict(pooled, image, progress=lambda *n: done.append(n))
    assert len(done) == 17  # not tiled: that would change the result
    with pytest.raises(WavedilError, match="depend on the full image"):
        predict(pooled, image, tile=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile is 0"),
        ({"tile": -3}, "tile is -3"),
        ({"scales": ()}, "scales"),
        ({"scales": (0,)}, "scales"),
        ({"scales": (1, float("nan"))}, "scales"),
        ({"scales": (float("inf"),)}, "scales"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(WavedilError, match=message):
        predict(small(), noise(8, 8), **options)


@pytest.mark.parametrize("image", [noise(4, 4).astype(float), noise(4, 4)[..., :2], noise(4, 4)[:0]])
def test_invalid_images_raise(image):
    with pytest.raises(WavedilError, match="image is .*read_image"):
        predict(small(), image)


def test_evaluation_of_known_labels(tmp_path):
    model = small(classes=["a", "b", "c"])
    pairs, hits, wrong = [], 0, 0
    for index in range(2):
        image = noise(24, 20, index)
        truth = predict(model, image).copy()
        wrong += int((truth[:5] != 1).sum())
        truth[:5], truth[5:7] = 1, 255
        hits += int((truth[7:] != 255).sum()) + int((predict(model, image)[:5] == 1).sum())
        write_image(tmp_path / f"{index}.png", image)
        write_labels(tmp_path / f"{index}_m.png", truth, default_palette(3))
        pairs.append(ImagePair(tmp_path / f"{index}.png", tmp_path / f"{index}_m.png"))
    result = evaluate(model, pairs)
    assert result.count == 2 * 22 * 20 == hits + wrong and result.images == 2
    assert result.accuracy == pytest.approx(hits / result.count)
    known = [iou for iou in result.classes.values() if iou is not None]
    assert result.mean_iou == pytest.approx(sum(known) / len(known)) and list(result.classes) == ["a", "b", "c"]
    assert "TP / (TP + FP + FN)" in result.definition and "ignore label 255" in result.definition
    half = evaluate(small(classes=["a", "b", "c"], scale=0.5), pairs, scaled=True)
    assert half.count == 2 * 11 * 10 and "resized by 0.5" in half.definition


@pytest.mark.parametrize("size", [(1, 1), (9, 1), (1, 9), (2, 3)])
def test_images_that_are_one_pixel_wide_or_high(size):
    model = small()
    labels = predict(model, noise(*size), flip=True, scales=(0.1, 1, 2), tile=5)
    assert labels.shape == size and (labels == predict(model, noise(*size), flip=True, scales=(0.1, 1, 2))).all()


@pytest.mark.parametrize("image", [None, "a.png", [[1]], torch.zeros(4, 4, 3), np.zeros((4, 4, 3))])
def test_other_images_raise(image):
    with pytest.raises(WavedilError, match=r"image is .*: expected .*read_image returns"):
        predict(small(), image)


def test_probabilities_and_other_images():
    """Pillow's images, gray ones too, and gray arrays are those of read_image."""
    from PIL import Image

    model, image = small(), noise(21, 17)
    expected = probabilities(model, image)
    found = predict(model, image, probabilities=True, tile=8)
    assert found.dtype == np.float32 and found.shape == (3, 21, 17)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    refined = predict(model, image, refine=lambda image, scores: scores[::-1].copy(), probabilities=True)
    np.testing.assert_allclose(refined, expected[::-1], atol=1e-5)
    labels = predict(model, image)
    np.testing.assert_array_equal(predict(model, Image.fromarray(image)), labels)
    gray = image[..., 0]
    labels = predict(model, np.stack([gray] * 3, -1))
    for other in (gray, gray[..., None], Image.fromarray(gray)):
        np.testing.assert_array_equal(predict(model, other), labels)
    for deep in (Image.fromarray(gray.astype(np.uint16)), gray.astype(np.uint16)):
        with pytest.raises(WavedilError, match="image (has more than 8 bits per channel|is uint16 of shape)"):
            predict(model, deep)
    turned = Image.fromarray(image)
    turned.getexif()[0x112] = 3  # rotated by 180 degrees
    np.testing.assert_array_equal(predict(model, turned), predict(model, image[::-1, ::-1]))


def test_strides_of_each_axis(tmp_path):
    """Of a segmenter: scores, prediction in tiles, numbers, and a saved model."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)]
    backbone = to_dense(nn.Sequential(*layers).eval(), (2, 4))
    model = Segmenter(backbone, Conv1x1Head(6, 3), ContextModule(3), num_classes=3).eval()
    assert model.output_stride == (2, 4) and model.strides == (2, 4)
    picture = np.random.default_rng(0).integers(0, 256, (53, 75, 3), dtype=np.uint8)
    with torch.no_grad():
        scores, stride = model.coarse_scores(torch.rand(1, 3, 53, 75))
        assert (tuple(scores.shape), stride) == ((1, 3, 27, 19), (2, 4))
        full, _ = score_map(model, torch.from_numpy(picture).permute(2, 0, 1))
        tiled, _ = score_map(model, torch.from_numpy(picture).permute(2, 0, 1), 16)
        torch.testing.assert_close(tiled, full, rtol=0, atol=1e-5)
    labels = predict(model, picture, scales=(1.0, 1.5), flip=True)
    assert labels.shape == (53, 75)
    inspect, render = model.inspection()
    assert "2 x 4 pixels" in render(inspect(model)) and inspect(model)["output_stride"] == (2, 4)
    again = load(save(model, tmp_path / "model"))
    assert again.output_stride == (2, 4)
    np.testing.assert_array_equal(predict(again, picture, scales=(1.0, 1.5), flip=True), labels)
    wide = torch.from_numpy(picture).permute(2, 0, 1).float()[None] / 255
    with torch.no_grad():
        assert torch.equal(model(wide).argmax(1)[0].byte(), torch.from_numpy(predict(model, picture)))
