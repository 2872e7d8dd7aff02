"""Dense CRF and CRF-RNN against written-out sums, pydensecrf2, and each other."""

import itertools
import math

import numpy as np
import pytest
import torch

from wavedil import WavedilError
from wavedil.bench import crf as bench
from wavedil.bench import render, runner
from wavedil.vision import CRFRNN, DenseCRF
from wavedil.vision.crf import PRESETS

NAMES = ("gaussian_sxy", "gaussian_weight", "bilateral_sxy", "bilateral_srgb", "bilateral_weight")


@pytest.fixture(scope="module")
def scene():
    """An image of colored patches (48, 64, 3), its labels (48, 64), and noisy scores (5, 48, 64)."""
    generator = torch.Generator().manual_seed(2)
    small = torch.randn(1, 5, 4, 5, generator=generator)
    patches = torch.nn.functional.interpolate(small, (48, 64), mode="bicubic")[0].argmax(0)
    palette = torch.randint(30, 220, (5, 3), generator=generator)
    image = palette[patches] + torch.randint(-9, 10, (48, 64, 3), generator=generator)
    truth = torch.nn.functional.one_hot(patches, 5).movedim(-1, 0)
    return image.byte(), patches, 2 * truth + 1.5 * torch.randn(5, 48, 64, generator=generator)


def same_labels(a, b):
    return (a.argmax(0) == b.argmax(0)).double().mean().item()


def test_exact_sums_equal_the_equations_in_plain_python():
    """The equations of the module docstring on 2 x 3 pixels."""
    torch.manual_seed(0)
    image, scores = torch.randint(0, 40, (2, 3, 3)).byte(), torch.randn(3, 2, 3)
    price = [[0.0, 1.0, 0.5], [2.0, 0.0, 1.0], [1.0, -0.5, 0.3]]
    pixels = list(itertools.product(range(2), range(3)))

    def kernel(i, j, sxy, srgb):
        near = sum((a - b) ** 2 for a, b in zip(i, j, strict=True)) / sxy**2
        alike = 0 if srgb is None else sum((float(a) - float(b)) ** 2 for a, b in zip(image[i], image[j], strict=True))
        return math.exp(-(near + (alike / srgb**2 if srgb else 0)) / 2)

    def softmax(row):
        exps = [math.exp(x) for x in row]
        return [e / sum(exps) for e in exps]

    q = {i: softmax([scores[(label, *i)].item() for label in range(3)]) for i in pixels}
    for _ in range(3):
        logits = {i: [scores[(label, *i)].item() for label in range(3)] for i in pixels}
        for weight, sxy, srgb in ((1.5, 0.8, None), (2.5, 1.3, 12.0)):
            k = {(i, j): kernel(i, j, sxy, srgb) for i in pixels for j in pixels}
            root = {i: math.sqrt(sum(k[i, j] for j in pixels)) for i in pixels}
            for i, label, j, other in itertools.product(pixels, range(3), pixels, range(3)):
                message = weight * k[i, j] / (root[i] * root[j]) * q[j][other]
                logits[i][label] -= price[label][other] * message
        q = {i: softmax(logits[i]) for i in pixels}
    crf = DenseCRF(3, 0.8, 1.5, 1.3, 12.0, 2.5, compatibility=price)
    expected = torch.tensor([q[i] for i in pixels]).t().view(3, 2, 3)
    torch.testing.assert_close(crf.exact(image, scores), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_lattice_agrees_with_exact_sums(scene, preset):
    image, patches, scores = scene
    crf = DenseCRF.preset(preset)
    q = crf(image, scores)
    assert q.dtype == torch.float32 and q.shape == scores.shape
    torch.testing.assert_close(q.sum(0), torch.ones(48, 64))
    assert same_labels(q, crf.exact(image, scores)) >= 0.98
    before, after = (float((x.argmax(0) == patches).float().mean()) for x in (scores, q))
    assert before < 0.8 and after > before + 0.12


@pytest.mark.parametrize("preset", PRESETS)
def test_agrees_with_pydensecrf(scene, preset):
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed (it needs a C++ compiler)")
    image, _, scores = scene
    crf = DenseCRF.preset(preset)
    peer = bench._pydensecrf2(crf, image.clone(), torch.softmax(scores, 0))()
    ours = crf(image, torch.softmax(scores, 0))
    assert same_labels(ours, peer) >= 0.998
    assert (ours - peer).abs().mean() < 1e-3


def test_potts_equals_its_matrix(scene):
    image, _, scores = scene
    potts, matrix = DenseCRF(), DenseCRF(compatibility=1 - torch.eye(5))
    torch.testing.assert_close(matrix(image, scores), potts(image, scores), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(matrix.exact(image, scores), potts.exact(image, scores), rtol=1e-4, atol=1e-5)
    assert (DenseCRF(compatibility=2 * (1 - np.eye(5)))(image, scores) - potts(image, scores)).abs().max() > 0.1


def test_probabilities_and_logits_give_the_same_result(scene):
    image, _, scores = scene
    crf = DenseCRF(2)
    expected = crf(image, scores)
    torch.testing.assert_close(crf(image, torch.softmax(scores, 0)), expected, rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(crf(image, scores + 7), expected, rtol=1e-4, atol=1e-5)
    labels = torch.nn.functional.one_hot(scores.argmax(0), 5).movedim(-1, 0).float()
    assert torch.equal(crf(image, labels), crf(image, labels.clamp(min=1e-5).log()))
    assert torch.equal(crf(image, torch.zeros(5, 48, 64)).mean(0), torch.full((48, 64), 0.2))
    with pytest.raises(WavedilError, match="their sums at each pixel differ from 1 by up to 0.05"):
        crf(image, torch.softmax(scores, 0) * 1.05)


def test_batches_arrays_and_dtypes(scene):
    image, _, scores = scene
    crf = DenseCRF(3)
    expected = crf(image, scores)
    read_only = image.numpy().copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(crf(read_only, scores.numpy()), expected.numpy())
    assert isinstance(crf(image, scores.numpy()), np.ndarray) and isinstance(crf(read_only, scores), torch.Tensor)
    assert torch.equal(crf(read_only[:, ::-1], scores.flip(2)), crf(image.flip(1), scores.flip(2)))
    upside_down = image.flip(0)
    both = crf(torch.stack([image, upside_down]).movedim(-1, 1), torch.stack([scores, scores.flip(1)]))
    assert both.shape == (2, 5, 48, 64)
    assert torch.equal(both[0], expected)
    assert torch.equal(both[1], crf(upside_down, scores.flip(1)))
    assert torch.equal(crf(image, scores.double()), expected)
    assert crf(image, scores.clone().requires_grad_()).requires_grad is False
    assert crf(image[:1, :1], scores[:, :1, :1]).shape == (5, 1, 1)


def layer_like(crf: DenseCRF, **options) -> CRFRNN:
    return CRFRNN(5, crf.iterations, **{name: getattr(crf, name) for name in NAMES}, **options)


def test_the_layer_is_initialized_as_the_dense_crf(scene):
    image, _, scores = scene
    for preset in ("crfasrnn", "deeplab_largefov"):
        crf = DenseCRF.preset(preset, iterations=5)
        refined = layer_like(crf)(image, scores)
        torch.testing.assert_close(torch.softmax(refined, 0), crf(image, scores), rtol=1e-3, atol=1e-5)
    layer = layer_like(crf)
    torch.nn.init.normal_(layer.compatibility)
    learned = DenseCRF.preset(preset, iterations=5, compatibility=layer.compatibility)
    torch.testing.assert_close(torch.softmax(layer(image, scores), 0), learned(image, scores), rtol=1e-3, atol=1e-5)


def test_one_iteration_of_the_layer_equals_matrix_products():
    """With different weights per class; the matrix of a filter is its result for the identity."""
    torch.manual_seed(0)
    from wavedil.ops.permutohedral import build_lattice, lattice_filter
    from wavedil.vision.crf import _kernel_features

    image, scores = torch.randint(0, 60, (4, 5, 3)).byte(), torch.randn(3, 4, 5)
    layer = CRFRNN(3, 1)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    q = torch.softmax(scores, 0).flatten(1)
    message = 0
    for f, weight in zip(_kernel_features(image.movedim(-1, 0), 3, 160, 3), list(layer.parameters())[:2], strict=True):
        message = message + torch.diag(weight) @ q @ lattice_filter(torch.eye(20), build_lattice(f)).t()
    expected = scores - (layer.compatibility @ message).view(3, 4, 5)
    torch.testing.assert_close(layer(image, scores), expected, rtol=1e-4, atol=1e-5)


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    image = torch.randint(0, 90, (2, 3, 3, 4)).byte()
    layer = CRFRNN(3, 2, gaussian_sxy=1, bilateral_srgb=20).double()
    scores = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    learned = [p.detach() + 0.1 * torch.randn_like(p) for p in layer.parameters()]

    def function(scores, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (image, scores))

    assert names == ["gaussian_weight", "bilateral_weight", "compatibility"]
    assert torch.autograd.gradcheck(function, (scores, *(p.requires_grad_() for p in learned)))


def test_gradients_in_float32_and_float64_agree(scene):
    image, _, scores = scene
    gradients = []
    for dtype in (torch.float32, torch.float64):
        layer = CRFRNN(5).to(dtype)
        inputs = scores.to(dtype).requires_grad_()
        loss = torch.nn.functional.cross_entropy(layer(image, inputs)[None], scene[1][None])
        gradients.append(torch.autograd.grad(loss, (inputs, *layer.parameters())))
    for ours, exact in zip(*gradients, strict=True):
        assert (ours.double() - exact).norm() < 1e-3 * exact.norm()
        assert exact.norm() > 0


def test_layer_in_half_precision_and_batches(scene):
    image, _, scores = scene
    layer = CRFRNN(5)
    images, batch = torch.stack([image, image.flip(0)]).movedim(-1, 1), torch.stack([scores, scores.flip(1)])
    refined = layer(images, batch)
    torch.testing.assert_close(refined[1], layer(image.flip(0), scores.flip(1)))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(images, batch), refined)
    half = layer(image, scores.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, layer(image, scores.bfloat16().float()).bfloat16())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(scene):
    image, _, scores = scene
    layer = CRFRNN(5).cuda()
    inputs = scores.cuda().requires_grad_()
    refined = layer(image.cuda(), inputs)
    refined.square().sum().backward()
    assert refined.is_cuda and inputs.grad.is_cuda and layer.compatibility.grad.is_cuda
    torch.testing.assert_close(refined.cpu(), layer.cpu()(image, scores))
    assert torch.equal(DenseCRF()(image.cuda(), scores.cuda()).cpu(), DenseCRF()(image, scores))


BAD_INPUTS = [
    ((4, 5, 3), (2, 4, 6), "image is 4x5 and scores are 4x6: expected the same size; resize the scores"),
    ((2, 3, 4, 5), (1, 2, 4, 5), "image is 2x4x5 and scores are 1x4x5"),
    ((4, 5, 3), (1, 4, 5), "scores have 1 label: expected at least 2"),
    ((4, 5, 3), (1, 2, 4, 5), r"scores have shape \(1, 2, 4, 5\): expected \(labels, height, width\)"),
    ((3, 4, 5), (2, 4, 5), r"image has shape \(3, 4, 5\): expected \(height, width, 3\) or \(batch, 3"),
    ((4, 5), (2, 4), r"image has shape \(4, 5\)"),
    ((0, 5, 3), (2, 0, 5), "expected at least one pixel"),
]


@pytest.mark.parametrize(("image", "scores", "message"), BAD_INPUTS)
def test_invalid_shapes_raise(image, scores, message):
    for refine in (DenseCRF(), DenseCRF().exact, CRFRNN(2)):
        with pytest.raises(WavedilError, match=message):
            refine(torch.zeros(image, dtype=torch.uint8), torch.zeros(scores))


def test_invalid_inputs_raise():
    image, scores = torch.zeros(4, 5, 3, dtype=torch.uint8), torch.zeros(2, 4, 5)
    for bad in (float("nan"), float("inf"), -float("inf")):
        wrong = scores.clone()
        wrong[1, 2, 3] = bad
        with pytest.raises(WavedilError, match="scores contain NaN or infinity: expected finite numbers"):
            DenseCRF()(image, wrong)
    with pytest.raises(WavedilError, match="image is float32: expected uint8, 0 to 255"):
        DenseCRF()(image.float(), scores)
    with pytest.raises(WavedilError, match="scores are int64: expected floating point"):
        DenseCRF()(image, scores.long())
    with pytest.raises(WavedilError, match="image is .*: expected a tensor or an array"):
        DenseCRF()([[1, 2], [3]], scores)
    with pytest.raises(WavedilError, match="image is .*: expected a tensor or an array"):
        DenseCRF()("cat.png", scores)
    with pytest.raises(WavedilError, match="image has 10100 pixels: expected at most 10000"):
        DenseCRF().exact(torch.zeros(101, 100, 3, dtype=torch.uint8), torch.zeros(2, 101, 100))
    with pytest.raises(WavedilError, match="compatibility has 3 labels and scores have 2"):
        DenseCRF(compatibility=np.eye(3))(image, scores)
    with pytest.raises(WavedilError, match="use larger standard deviations"):
        DenseCRF(bilateral_srgb=1e-5)(image + 255, scores)
    with pytest.raises(WavedilError, match="scores have 2 labels: expected num_classes 3"):
        CRFRNN(3)(image, scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations is 0: expected a positive integer"),
        ({"iterations": 2.5}, "iterations is 2.5"),
        ({"gaussian_sxy": 0}, "gaussian_sxy is 0: expected a number above 0"),
        ({"bilateral_srgb": float("nan")}, "bilateral_srgb is nan: expected a number above 0"),
        ({"bilateral_weight": -1}, "bilateral_weight is -1: expected a number from 0"),
    ],
)
def test_numbers_out_of_range_raise(options, message):
    for make in (DenseCRF, lambda **options: CRFRNN(3, **options)):
        with pytest.raises(WavedilError, match=message):
            make(**options)


def test_invalid_arguments_raise():
    with pytest.raises(WavedilError, match="num_classes is 1: expected an integer from 2"):
        CRFRNN(1)
    with pytest.raises(WavedilError, match="CRF preset is 'voc': expected one of densecrf, deeplab_largefov"):
        DenseCRF.preset("voc")
    for wrong in ("none", np.zeros((2, 3)), [[0, float("nan")], [1, 0]]):
        with pytest.raises(WavedilError, match="expected 'potts'"):
            DenseCRF(compatibility=wrong)


def test_kernels_of_weight_0_change_nothing(scene):
    image, _, scores = scene
    q = DenseCRF(gaussian_weight=0, bilateral_weight=0)(image, scores)
    torch.testing.assert_close(q, torch.softmax(scores, 0))


def test_benchmark(monkeypatch):
    result = bench.bench_crf(
        "cpu", height=30, width=40, labels=3, iterations=2, presets=("densecrf",), rounds=2, volume=(4, 9, 8)
    )
    assert [row["name"] for row in result["rows"]] == [
        *("densecrf 40x30x3, pydensecrf2", "densecrf 40x30x3, ours"),
        *("volume 4x9x8x4, pydensecrf2", "volume 4x9x8x4, ours"),
    ]
    assert result["rows"][1]["median"] > 0
    monkeypatch.setattr(bench, "_pydensecrf2", lambda *arguments: None)
    small = {"height": 30, "width": 40, "labels": 3, "volume": (4, 9, 8)}
    result = bench.bench_crf("cpu", **small, iterations=2, presets=("densecrf",), rounds=2)
    assert "not installed" in render(runner.describe("crf", "cpu") | result) and result["notes"] == []
    with pytest.raises(WavedilError, match="device is 'meta': the dense CRF runs on the CPU, so use cpu"):
        bench.bench_crf("meta")
