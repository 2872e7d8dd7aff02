"""Dense regression: target files, loss, metrics, crops, models, and built-in images."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from wavedil.errors import WavedilError
from wavedil.vision import Conv1x1Head, Regressor, SmallBackbone, SmoothL1, estimate, load, save
from wavedil.vision.data.dataset import RegressionDataset
from wavedil.vision.data.image_crops import RandomImageCrops
from wavedil.vision.data.images import read_target, write_image, write_values
from wavedil.vision.data.pairs import FolderLayout, find_pairs
from wavedil.vision.data.spheres import STEP, draw, make_spheres
from wavedil.vision.folder_evaluation import evaluate_folder
from wavedil.vision.metrics import RegressionMetrics
from wavedil.vision.prediction_files import write_predictions

NAN = float("nan")


def small(**options):
    torch.manual_seed(0)
    return Regressor(SmallBackbone(8, 4), Conv1x1Head(8, 1), **options).eval()


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_values_are_scaled_by_target_mean_and_std():
    image = torch.rand(2, 3, 9, 14)
    plain, model = small(), small(target_mean=5.0, target_std=0.5)
    assert plain(image).shape == (2, 1, 9, 14)
    torch.testing.assert_close(model(image), 5 + 0.5 * plain(image))


def test_estimate_equals_the_model_with_and_without_tiles():
    model, image = small(target_mean=3.0, target_std=100.0), noise(61, 50)
    values = estimate(model, image)
    with torch.inference_mode():
        expected = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0, 0].numpy()
    assert values.dtype == np.float32 and values.std() > 0.1
    np.testing.assert_allclose(values, expected, atol=1e-4)
    np.testing.assert_allclose(estimate(model, image, tile=16), values, atol=1e-4)
    mirrored = estimate(model, np.ascontiguousarray(image[:, ::-1]))[:, ::-1]
    np.testing.assert_allclose(estimate(model, image, flip=True), (values + mirrored) / 2, atol=1e-4)


def test_smooth_l1_ignores_unknown_targets():
    values = torch.tensor([[[[1.0, 2.0], [7.0, 0.0]]]], requires_grad=True)
    targets = torch.tensor([[[1.5, 4.0], [NAN, NAN]]])
    loss = SmoothL1()(values, targets)
    loss.backward()
    assert loss.item() == pytest.approx((0.5 + 2) / 2)
    assert values.grad[0, 0].tolist() == [[-0.5, -0.5], [0, 0]]
    assert SmoothL1(1.0)(values, targets).item() == pytest.approx((0.5**2 / 2 + 2 - 0.5) / 2)
    unknown = SmoothL1()(values, torch.full((1, 2, 2), NAN))
    unknown.backward()
    assert unknown.item() == 0 and values.grad.isfinite().all()


def test_metrics_of_a_written_out_example():
    errors = RegressionMetrics()
    errors.update(torch.tensor([[1.0, 9.0]]), torch.tensor([[2.0, NAN]]))
    errors.update(torch.tensor([6.0, 4.0]), torch.tensor([3.0, 4.0]))
    assert errors.count == 3
    assert errors.rmse == pytest.approx(math.sqrt((1 + 9 + 0) / 3))
    assert errors.abs_rel == pytest.approx((0.5 + 1 + 0) / 3)


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "npy"])
def test_read_targets(tmp_path, kind):
    levels = np.array([[0, 1, 200], [3, 0, 250]])
    path = tmp_path / ("t.npy" if kind == "npy" else "t.png")
    if kind == "npy":
        np.save(path, np.where(levels == 3, np.inf, levels * 0.5))
    else:
        Image.fromarray(
            levels.astype(np.uint8 if kind == "8 bits" else np.uint16) * (1 if kind == "8 bits" else 100)
        ).save(path)
    step = {"8 bits": 0.5, "16 bits": 0.005, "npy": 7.0}[kind]
    expected = np.where(levels == 0, NAN, levels * 0.5)
    if kind == "npy":
        expected[1, 0] = NAN
    found = read_target(path, step)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_write_values(tmp_path):
    values = np.array([[1.2344, NAN, 900.0], [0.0, -3.0, 65.535]], np.float32)
    write_values(tmp_path / "v.npy", values, 0.001)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), values)
    write_values(tmp_path / "v.png", values, 0.001)
    with Image.open(tmp_path / "v.png") as picture:
        assert picture.mode.startswith("I;16")
        assert np.array(picture).tolist() == [[1234, 0, 65535], [1, 1, 65535]]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: np.save(path, np.zeros((2, 3, 4))),
            r"cannot be read .* has float64 of shape \(2, 3, 4\): expected",
        ),
        (lambda path: np.save(path, np.array([["a"]])), "cannot be read .* has <U1"),
        (lambda path: np.save(path, np.array([[None]]), allow_pickle=True), "cannot be read"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), "cannot be read"),
    ],
)
def test_invalid_npy_files_raise(tmp_path, write, message):
    write(tmp_path / "t.npy")
    with pytest.raises(WavedilError, match=f"t.npy {message}"):
        read_target(tmp_path / "t.npy", 1.0)


def test_values_that_float32_does_not_have_are_unknown(tmp_path):
    values = np.array([[1, 1e300, -np.inf, 0]])
    values[0, 3] = np.frombuffer(bytes.fromhex("010000000000f07f"), "<f8")[0]  # a signaling NaN
    np.save(tmp_path / "t.npy", values)
    assert read_target(tmp_path / "t.npy", 1.0).tolist()[0][0] == 1
    assert np.isnan(read_target(tmp_path / "t.npy", 1.0)[0, 1:]).all()


@pytest.fixture
def folder(tmp_path):
    """Targets are ten times the red channel, as .npy file and as gray image."""
    for index in range(2):
        image = noise(20 + index, 30)
        image[:3, :, 0] = 0
        write_image(tmp_path / "images" / f"{index}.png", image)
        (tmp_path / "targets").mkdir(exist_ok=True)
        if index:
            np.save(tmp_path / "targets" / f"{index}.npy", image[..., 0] * 10.0)
        else:
            Image.fromarray(image[..., 0].astype(np.uint16) * 200).save(tmp_path / "targets" / f"{index}.png")
    return tmp_path


def test_crops_keep_targets_aligned_with_pixels(folder):
    images = RegressionDataset(find_pairs(folder, FolderLayout(masks="targets")), 0.05)
    count, mean, deviation = images.target_statistics()
    values = np.concatenate([images.read(i)[1].ravel() for i in range(2)]).astype(np.float64)
    assert count == (~np.isnan(values)).sum() < 30 * (17 + 18) + 1
    np.testing.assert_allclose([mean, deviation], [np.nanmean(values), np.nanstd(values)], rtol=1e-6)
    crops = RandomImageCrops(images, (24, 16), scales=(1.0, 1.0))
    for index in range(6):
        crop = crops[index]
        known = ~crop["targets"].isnan()
        assert crop["targets"].shape == (24, 16) and 0 < known.sum() < 24 * 16  # unknown outside the image
        torch.testing.assert_close(crop["targets"][known], crop["image"][0][known] * 2550)


def test_evaluation_and_predicted_files_agree(folder, tmp_path):
    model = load(save(small(step=0.01, target_mean=1270.0, target_std=700.0), tmp_path / "model"))
    assert (model.step, model.target_mean, model.target_std) == (0.01, 1270.0, 700.0)
    result = evaluate_folder(model, folder)
    written = write_predictions(model, [folder / "images"], tmp_path / "out")
    errors = []
    for file, target in zip(written["files"], sorted((folder / "targets").iterdir()), strict=True):
        values, truth = np.load(file["values"]), read_target(target, model.step)
        errors.append((values - truth)[~np.isnan(truth)])
        with Image.open(file["picture"]) as picture:
            np.testing.assert_array_equal(np.array(picture), np.rint(values / 0.01).clip(1, 65535))
    assert result.rmse == pytest.approx(np.sqrt(np.square(np.concatenate(errors), dtype=np.float64).mean()), rel=1e-6)
    assert result.count == len(np.concatenate(errors)) and "RMSE" in str(result)


def test_invalid_arguments_raise(folder):
    pairs = find_pairs(folder, FolderLayout(masks="targets"))
    for make, message in (
        (lambda: small(target_std=0.0), "target_std is 0.0: expected a number above 0"),
        (lambda: SmoothL1(-1.0), "beta is -1.0"),
        (lambda: RegressionDataset(pairs, 0.0), "step is 0.0"),
        (lambda: make_spheres("x", size=8), "size is 8: expected"),
        (
            lambda: Regressor(SmallBackbone(8, 4), Conv1x1Head(8, 2))(torch.rand(1, 3, 8, 8)),
            "return 2 channels: expected 1",
        ),
    ):
        with pytest.raises(WavedilError, match=message):
            make()


def test_spheres_are_nearer_than_the_floor(tmp_path):
    image, depth = draw(96, np.random.default_rng(1))
    assert image.shape == (96, 96, 3) and np.isnan(depth).sum() == 15 * 15
    top, bottom = np.nanmedian(depth[:5]), np.nanmedian(depth[-5:])
    assert 5 < top < 8.1 and 1 < bottom < 3.2
    folder = make_spheres(tmp_path, 1, 1, 96, seed=3)
    stored = read_target(folder / "train" / "targets" / "0000.png", STEP)
    np.testing.assert_allclose(stored, draw(96, np.random.default_rng([3, 0, 0]))[1], atol=STEP * 0.51)
