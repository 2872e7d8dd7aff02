"""Dense networks: cells, layers, modes, precision, levels, receptive field, and errors."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from wavedil.errors import WavedilError
from wavedil.vision import check_dense, to_dense
from wavedil.vision.dense import DenseBackbone


def image(*size, seed=1, dtype=torch.float64):
    return torch.randn(1, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    """Stride 8 by a convolution, a max pooling and an average pooling; a shortcut; a head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.wide = nn.Conv2d(6, 6, 5, padding=2, groups=6)
        self.average = nn.AvgPool2d(2, 2)
        self.short = nn.Conv2d(6, 6, 1, stride=2)
        self.last = nn.Conv2d(6, 4, 3, padding=1)
        self.fc = nn.Linear(4, 10)

    def features(self, x):
        x = self.pool(F.relu(self.norm(self.first(x))))
        x = self.average(self.wide(x)) + self.short(x)
        return self.last(F.dropout(x, 0.5, self.training))

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def small() -> Small:
    torch.manual_seed(0)
    return Small().double().eval()


def test_a_written_out_example():
    """Sums of 3 with stride 2, then sums of 2: at stride 1 the second sums skip every other of the first."""
    sums = nn.Sequential(nn.Conv2d(1, 1, (1, 3), stride=2, bias=False), nn.Conv2d(1, 1, (1, 2), bias=False)).double()
    for conv in sums:
        nn.init.ones_(conv.weight)
    x = torch.tensor([1.0, 10, 100, 0, 0, 2, 0, 3], dtype=torch.float64).expand(1, 1, 2, 8)
    # sums of 3: 111 110 100 2 2 5; then sums of two of these at distance 2
    assert sums(x)[0, 0, 0].tolist() == [211, 102]
    assert to_dense(sums, 1, until="1")(x)[0, 0, 0].tolist() == [211, 112, 102, 7]


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_every_cell_equals_the_classifiers_for_a_shifted_image(stride):
    model, x = small(), image(64, 72)
    dense = to_dense(model, stride, until="last")
    assert (dense.output_stride, dense.stride, dense.channels) == (stride, 8, 4)
    with torch.no_grad():
        maps = dense(x)
        assert maps.shape[2:] == (64 // stride, 72 // stride)
        r = 8 // stride
        torch.testing.assert_close(maps[..., ::r, ::r], model.features(x))
        for down, right in [(0, r // 2), (r // 2, r - 1)]:
            shifted = model.features(x.roll((-down * stride, -right * stride), (2, 3)))
            cells = maps[..., down::r, right::r]
            inner = (slice(None), slice(None), slice(3, 5), slice(3, 5))  # the borders differ
            torch.testing.assert_close(cells[inner], shifted[inner])


@pytest.mark.parametrize("size", [(33, 57), (71, 40), (64, 1)])
def test_odd_kernels_are_exact_for_any_size(classifier, size):
    """With equal padding on both sides."""
    model = classifier("torchvision resnet18")
    report = check_dense(model, to_dense(model, 8), size=size)
    assert report.exact and report.size == size
    assert to_dense(model, 8)(torch.zeros(2, 3, *size)).shape[2:] == tuple(-(-n // 8) for n in size)


def test_check_finds_a_wrong_layer():
    model = small()
    dense = to_dense(model, 2, until="last")
    assert check_dense(model, dense).exact
    window = dense.wide.window
    dense.wide.window = type(window)(window.kernel, padding=((2, 2), (2, 2)))
    report = check_dense(model, dense)
    assert not report.exact and report.layer == "layer wide" and report.error > 0.01
    assert str(report).startswith("not exact at output stride 2: relative error ")


def test_weights_keep_their_names_and_the_classifier_is_not_changed(classifier):
    model = classifier("torchvision resnet18")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dense = to_dense(model, 8)
    other = classifier("torchvision resnet18")
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    missing, unexpected = dense.load_state_dict(other.state_dict(), strict=False)
    assert missing == [] and set(unexpected) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.layer4[0].conv1.stride == (2, 2)
    torch.testing.assert_close(copy.deepcopy(dense)(torch.ones(1, 3, 32, 32)), dense(torch.ones(1, 3, 32, 32)))
    assert copy.deepcopy(dense).output_stride == 8


def test_gradients_equal_the_classifiers():
    model, x = small(), image(48, 40)
    dense = to_dense(model, 2, until="last")
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    d = image(6, 5, seed=2).new_ones(1, 4, 6, 5) * torch.arange(5).double()
    dense(ours)[..., ::4, ::4].mul(d).sum().backward()
    model.features(theirs).mul(d).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    expected = {name: p.grad for name, p in model.named_parameters() if not name.startswith("fc")}
    for name, parameter in dense.named_parameters():
        torch.testing.assert_close(parameter.grad, expected.pop(name))
    assert not expected


def test_norms_and_dropout_follow_the_mode():
    """A trace alone would fix the mode."""
    dense = to_dense(small(), 4, until="last")
    x = image(32, 32)
    assert torch.equal(dense.eval()(x), dense(x))
    dense.train()
    mean = dense.norm.running_mean.clone()
    assert not torch.equal(dense(x), dense(x))
    assert not torch.equal(dense.norm.running_mean, mean)


class Standardized(nn.Conv2d):
    """Convolution with a computed weight, as in networks without norms."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def test_layers_with_a_custom_forward():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ReflectionPad2d(1),
        Standardized(3, 4, 3, stride=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Standardized(4, 4, 3, padding=1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    )
    for stride in (1, 2, 4):
        dense = to_dense(model, stride, until="5")
        assert check_dense(model, dense).exact
        assert {"1.weight", "3.bias"} <= dense.state_dict().keys()


# -- reduced precision ------------------------------------------------------------------------------------------------


def depthwise_gradient(layer, dtype):
    layer = copy.deepcopy(layer).float().to(memory_format=torch.channels_last)
    x = image(23, 40, dtype=torch.float32).repeat(2, 16, 1, 1).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = layer(x)
    y.float().mul(torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return layer.weight.grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_dilated_depthwise_layers_under_autocast(dtype):
    """On many CPUs torch's weight gradient is wrong for channels_last, half precision, depthwise and dilated layers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(48, 48, 1, stride=2), nn.Conv2d(48, 48, 5, padding=2, groups=48))
    layer = to_dense(net, 1, until="1").get_submodule("1")
    assert layer.window.dilation == (2, 2)
    found, expected = depthwise_gradient(layer, dtype), depthwise_gradient(layer, torch.float32)
    assert (found - expected).norm() < 0.02 * expected.norm()


class Convolutions(TorchDispatchMode):
    """Records the dtypes of torch's depthwise dilated convolutions."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            x, _, _, _, _, dilation, _, _, groups = args
            if groups == x.shape[1] and max(dilation) > 1:
                self.dtypes.append(x.dtype)
        return function(*args, **(kwargs or {}))


def test_depthwise_dilated_convolutions_run_in_float32(classifier):
    """Not every CPU has the bug, so this checks which operations are called."""
    dense = to_dense(classifier("timm efficientnet_lite0"), 8).train()
    with Convolutions() as seen, torch.autocast("cpu", torch.bfloat16):
        dense(torch.zeros(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert len(seen.dtypes) > 4 and set(seen.dtypes) == {torch.float32}


def test_a_dense_network_trains_under_autocast(classifier):
    model = classifier("timm efficientnet_lite0")
    dense = to_dense(model, 8).train().to(memory_format=torch.channels_last)
    x = image(64, 64, dtype=torch.float32).repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    norms = {}
    for dtype in (torch.float32, torch.bfloat16):
        dense.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            features = dense(x)
        features.float().square().mean().backward()
        norms[dtype] = {name: p.grad.norm() for name, p in dense.named_parameters() if "conv_dw" in name}
    assert features.shape == (2, 1280, 8, 8) and features.is_contiguous(memory_format=torch.channels_last)
    for name, norm in norms[torch.float32].items():
        assert 0.5 < norms[torch.bfloat16][name] / norm < 2, name


# -- levels -----------------------------------------------------------------------------------------------------------


def test_levels_are_the_maps_before_each_stride(classifier):
    timm = pytest.importorskip("timm")
    model = classifier("timm resnet18").double()
    dense = to_dense(model, 16, levels=(4, 8))
    assert dense.level_strides == (4, 8, 16) and dense.level_channels == (64, 128, 512)
    pyramid = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 4), output_stride=16).double().eval()
    pyramid.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for ours, theirs in zip(dense(image(64, 80)), pyramid(image(64, 80)), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert check_dense(model, dense).exact


def test_unet_on_levels(classifier):
    from wavedil.vision import UNet

    dense = to_dense(classifier("timm efficientnet_lite0"), 8, levels=(2, 4))
    scores = UNet(dense.level_channels, 5)(dense(torch.zeros(1, 3, 40, 56)))
    assert scores.shape == (1, 5, 20, 28)


def test_receptive_field_equals_the_measured_one():
    from wavedil import measure_receptive_field

    model = small()
    dense = to_dense(model, 4, until="last")
    # first 3; pool + 2 * 2; wide + 4 * 4; average + 1 * 4; last + 2 * 8
    assert dense.receptive_field == 3 + 4 + 16 + 4 + 16
    measured = measure_receptive_field(dense, 3, ndim=2)
    assert measured.extent == (43, 43)


# -- errors -----------------------------------------------------------------------------------------------------------


class ValueDependent(nn.Module):
    """Has control flow that depends on values."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        return self.conv(x) if x.mean() > 0 else x


def chain(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), *layers)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (small, {"output_stride": 12}, "output_stride is 12: expected powers of two"),
        (small, {"output_stride": 16}, "output_stride is 16: expected at most 8, the stride of Small at layer last"),
        (small, {"output_stride": 4, "levels": [4]}, "levels is [4]: expected different strides below the output"),
        (small, {"output_stride": 4, "levels": [2, 2]}, "levels is [2, 2]: expected different strides"),
        (small, {"output_stride": 4, "until": "layer9"}, "until is 'layer9': expected a layer that is called, e.g."),
        (ValueDependent, {"output_stride": 2}, "ValueDependent cannot be traced"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), {"output_stride": 2}, "has no Conv2d"),
        (
            lambda: chain(nn.ConvTranspose2d(4, 4, 2)),
            {"output_stride": 1},
            "layer 1: ConvTranspose2d has no dense form",
        ),
        (lambda: chain(nn.PixelUnshuffle(2)), {"output_stride": 1}, "layer 1: changes the size of a map"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 6), nn.Conv2d(4, 4, 3)), {"output_stride": 4}, "layer 0: goes from"),
        (lambda: chain(nn.Flatten(), nn.Linear(9, 2)), {"output_stride": 2}, "layer 2"),
    ],
)
def test_errors_name_the_layer(make, options, message):
    with pytest.raises(WavedilError) as error:
        to_dense(make(), **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_networks_for_one_image_size_raise(classifier):
    with pytest.raises(WavedilError, match=r"VisionTransformer has a fixed input size, 224 x 224 .*, e.g. a ResNet"):
        to_dense(classifier("timm vit_tiny_patch16_224"), 8)
    flat = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 16 * 16, 5))
    with pytest.raises(WavedilError, match=r"Sequential has a fixed input size, 32 x 32 \(layer 2 "):
        to_dense(flat, 1)
    odd = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 17 * 17, 5))
    with pytest.raises(WavedilError, match=r"layer 2 of Sequential does not accept an image of 448 x 704"):
        to_dense(odd, 1)


def test_an_image_of_wrong_shape_raises():
    dense = to_dense(small(), 4, until="last")
    for x in (torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32)):
        with pytest.raises(WavedilError, match=r"image has shape .*: expected \(batch, 3, height, width\)"):
            dense(x.double())


def test_check_of_another_network_raises(classifier):
    with pytest.raises(WavedilError, match="dense has a tensor conv1.weight: expected only tensor names of Small"):
        check_dense(small(), to_dense(classifier("torchvision resnet18"), 8))


@pytest.mark.parametrize("stride", [(1, 8), (8, 2), (4, 2), (2, 4)])
def test_strides_of_each_axis(stride):
    """Cells are those of the network at the smaller stride of both axes, and of the classifier."""
    model, x = small(), image(64, 96)
    dense, fine = to_dense(model, stride, until="last"), to_dense(model, min(stride), until="last")
    assert (dense.output_stride, dense.stride, dense.level_strides) == (stride, 8, (stride,))
    assert dense.receptive_field == fine.receptive_field
    down, right = (s // min(stride) for s in stride)
    with torch.no_grad():
        maps = dense(x)
        assert maps.shape[2:] == (64 // stride[0], 96 // stride[1])
        torch.testing.assert_close(maps, fine(x)[..., ::down, ::right])
        torch.testing.assert_close(maps[..., :: 8 // stride[0], :: 8 // stride[1]], model.features(x))
    for size in ((64, 96), (40, 24)):
        report = check_dense(model, dense, size=size)
        assert report.exact and (report.output_stride, report.stride) == (stride, 8)
    assert str(report).startswith(f"exact at output stride {stride}: ")
    single = to_dense(model.float(), stride, until="last")
    again = DenseBackbone(**json.loads(json.dumps(single.config)))
    again.load_state_dict(single.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(x.float()), single(x.float())) and again.output_stride == stride


def test_a_classifier_with_other_strides_along_each_axis():
    """As for spectrograms: frequencies are pooled more than time."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3, (2, 1), 1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.MaxPool2d((2, 4)),
        nn.Conv2d(4, 2, 3, 2, 1),
    ]
    model = nn.Sequential(*layers).double().eval()
    for stride in ((2, 8), (8, 4), (4, 2), (1, 1)):
        dense = to_dense(model, stride)
        assert dense.stride == (8, 8) or dense.stride == 8
        assert check_dense(model, dense, size=(48, 80)).exact
    other = nn.Sequential(*layers[:3]).double().eval()
    assert to_dense(other, (4, 2)).stride == 4 and check_dense(other, to_dense(other, (4, 2))).exact
    one = nn.Sequential(layers[0]).double().eval()
    assert to_dense(one, (2, 1)).stride == (2, 1) and check_dense(one, to_dense(one, 1)).exact


def test_levels_with_strides_of_each_axis():
    model = small()
    dense = to_dense(model, (4, 8), levels=[2, (4, 4)], until="last")
    assert dense.level_strides == (2, 4, (4, 8))
    with torch.no_grad():
        assert [tuple(each.shape[2:]) for each in dense(image(64, 96))] == [(32, 48), (16, 24), (16, 12)]


@pytest.mark.parametrize(
    ("stride", "message"),
    [
        ((8, 3), r"output_stride is \(8, 3\): expected powers of two"),
        ((16, 8), r"output_stride is \(16, 8\): expected at most 8, the stride of Small"),
        ((8, 8, 8), r"output_stride is \(8, 8, 8\): expected a positive integer, or one for each of 2 axes"),
        ((0, 8), "expected a positive integer"),
        ([], "expected a positive integer"),
        ("8", "output_stride is '8'"),
        ((8, 2.0), "output_stride"),
    ],
)
def test_wrong_strides_of_each_axis(stride, message):
    with pytest.raises(WavedilError, match=message):
        to_dense(small(), stride, until="last")
