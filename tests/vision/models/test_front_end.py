"""The front end: parameter counts, output sizes and receptive fields of the paper; parity with torchvision's VGG-16."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil import measure_receptive_field
from wavedil.errors import WavedilError
from wavedil.vision import FCN8s, LargeFOV, VGGFrontEnd, upsample, vgg16_front_end

NARROW = {"widths": (2, 2, 3, 3, 4), "hidden_channels": 5}
VGG_CONVS = 14_714_688


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def narrow(num_classes=3, **options) -> VGGFrontEnd:
    torch.manual_seed(0)
    return VGGFrontEnd(num_classes, **{**NARROW, **options}).double().eval()


def image(*size, batch=1):
    return torch.randn(batch, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_parameter_counts_of_the_paper():
    with torch.device("meta"):
        net = VGGFrontEnd(21)
        assert count(net) == 134_346_581
        assert (count(net.stages), count(net.fc6), count(net.fc7)) == (VGG_CONVS, 102_764_544, 16_781_312)
        # DeepLab-LargeFOV, and FCN-8s with its three fixed deconvolutions, have the published counts too.
        assert count(net.stages, LargeFOV(512, 21)) == 20_505_429
        body = VGGFrontEnd(None, stride=32, padding="same")
        deconvolutions = 21 * 21 * (4 * 4 + 4 * 4 + 16 * 16)
        assert count(body, FCN8s([256, 512, 4096], 21)) + deconvolutions == 134_489_759  # "134.5 M"


@pytest.mark.parametrize(
    ("size", "cells"),
    [((900, 900), (66, 66)), ((900, 1100), (66, 91)), ((1396, 1396), (128, 128)), ((852, 1640), (60, 159)),
     ((500, 628), (16, 32)), ((373, 380), (1, 1))],
)  # fmt: skip
def test_output_sizes_of_the_released_nets(size, cells):
    with torch.device("meta"):
        net = VGGFrontEnd(21, padding="valid", **NARROW)
        assert net(torch.empty(1, 3, *size)).shape == (1, 21, *cells)


@pytest.mark.parametrize("padding", ["reflect_image", "same"])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_feature_map_covers_every_pixel(padding, stride):
    net = narrow(stride=stride, padding=padding)
    for height, width in ((224, 96), (61, 1), (33, 40)):
        cells = (-(-height // stride), -(-width // stride))
        scores = net(image(height, width, batch=2))
        assert scores.shape == (2, 3, *cells)
        assert upsample(scores, (height, width), stride).shape == (2, 3, height, width)


@pytest.mark.parametrize(("stride", "field"), [(4, 376), (8, 380), (16, 388), (32, 404)])
def test_receptive_field_equals_the_measured_one(stride, field):
    net = narrow(1, stride=stride, padding="valid", widths=(1,) * 5, hidden_channels=1)
    assert (net.receptive_field, net.margin, net.stride) == (field, 186, stride)
    net.pool = nn.AvgPool2d(2, ceil_mode=True)  # the same windows, and gradients reach all of each window
    measured = measure_receptive_field(net, 3, ndim=2, size=372 + 3 * stride, seeds=1)
    assert measured.extent == (field, field) and measured.holes == 0


@pytest.mark.parametrize("padding", ["reflect_image", "same"])
def test_cells_are_centered_on_their_pixels(padding):
    net = narrow(padding=padding, widths=(1,) * 5, hidden_channels=1)
    net.pool = nn.AvgPool2d(2, ceil_mode=True)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.5)
    x = image(8, 800).abs().requires_grad_()
    net(x)[..., 50].sum().backward()
    columns = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert (columns[0], columns[-1]) == (400 - 186, 407 + 186)  # around 403.5


@pytest.mark.parametrize(
    ("stride", "dilations"), [(32, (1, 1, 1)), (16, (1, 1, 2)), (8, (1, 2, 4)), (4, (2, 4, 8))]
)  # 8: the paper's conv4, conv5 and fc6
def test_dilation_replaces_the_removed_pooling_layers(stride, dilations):
    net, plain = narrow(stride=stride, padding="same"), narrow(stride=32, padding="same")
    assert (*(stack.dilations[0] for stack in net.stages[3:]), net.fc6.conv.dilation[0]) == dilations
    # With pooling layers that only subsample, every step-th cell of the dense net equals a cell of VGG-16.
    net.pool = plain.pool = nn.MaxPool2d(1, stride=2, ceil_mode=True)
    x, step = image(97, 66), 32 // stride
    torch.testing.assert_close(net(x)[..., ::step, ::step], plain(x))


def test_valid_padding_is_exact_in_tiles_and_reflect_image_pads_the_image():
    net, reflecting = narrow(padding="valid"), narrow()
    x = image(200, 216)
    padded = F.pad(x, [186] * 4, mode="reflect")
    full = net(padded)
    torch.testing.assert_close(reflecting(x), full)
    rows, columns = slice(3, 9), slice(10, 27)
    tile = padded[..., 8 * rows.start : 8 * rows.stop + 372, 8 * columns.start : 8 * columns.stop + 372]
    torch.testing.assert_close(net(tile), full[..., rows, columns])
    odd = image(61, 38)  # smaller than the margin, and padded to a multiple of 8 at the end
    again = np.pad(odd, [(0, 0), (0, 0), (186, 186 + 3), (186, 186 + 2)], mode="reflect")
    torch.testing.assert_close(reflecting(odd), net(torch.as_tensor(again)))


def test_no_activation_follows_final():
    net = narrow(stride=32, padding="same")
    x = image(64, 96)
    *_, fc7 = net.features(x)
    assert (fc7 >= 0).all()
    torch.testing.assert_close(net(x), F.conv2d(fc7, net.final.weight, net.final.bias))
    assert (net(x) < 0).any()
    body = narrow(None, stride=32, padding="same")
    body.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("final")})
    maps = body.features(x)
    assert torch.equal(body(x), maps[-1]) and torch.equal(maps[-1], fc7)
    assert [m.shape[1:] for m in maps] == [(3, 8, 12), (3, 4, 6), (5, 2, 3)]
    assert FCN8s([3, 3, 5], 7).double()(maps).shape == (1, 7, 8, 12)


def small_vgg(batch_norm=False):
    models = pytest.importorskip("torchvision.models.vgg")
    cfg = [w for width, depth in zip(NARROW["widths"], (2, 2, 3, 3, 3), strict=True) for w in [*[width] * depth, "M"]]
    features = models.make_layers(cfg, batch_norm)
    with torch.device("meta"):  # does not allocate the classifier with 124 million weights, which is replaced below
        net = models.VGG(features, init_weights=False)
    hidden = [nn.Linear(4 * 49, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 5), nn.ReLU(), nn.Dropout()]
    net.classifier = nn.Sequential(*hidden, nn.Linear(5, 3))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return net.double().eval()


def test_stride_32_equals_torchvisions_vgg16():
    vgg = small_vgg()
    net = narrow(stride=32, padding="same").load_torchvision(vgg.state_dict())
    net.final.load_state_dict({k: v.reshape(3, *v.shape[1:], *[1] * (2 * v.ndim - 2)) for k, v in
                               vgg.classifier[6].state_dict().items()})  # fmt: skip
    x = image(224, 224, batch=2)
    # At the central cell of 7 x 7, fc6 reads the 7 x 7 map that torchvision's classifier reads.
    torch.testing.assert_close(net(x)[..., 3, 3], vgg(x))


def test_dilated_net_equals_torchvisions_without_pooling_layers():
    vgg = small_vgg()
    net = narrow(padding="valid").load_torchvision(vgg.state_dict())
    layers = []
    for index, layer in enumerate(vgg.features):
        if isinstance(layer, nn.Conv2d):
            layer.padding, layer.dilation = (0, 0), (2, 2) if index > 23 else (1, 1)
        if index not in (23, 30):  # pool4 and pool5
            layers.append(layer)
    x = nn.Sequential(*layers)(image(396, 380))
    fc6, fc7 = vgg.classifier[0], vgg.classifier[3]
    x = F.relu(F.conv2d(x, fc6.weight.view(5, 4, 7, 7), fc6.bias, dilation=4))
    x = F.relu(F.conv2d(x, fc7.weight.view(5, 5, 1, 1), fc7.bias))
    torch.testing.assert_close(net.features(image(396, 380))[-1], x)


def test_vgg16_front_end_reads_a_file_of_torchvision_weights(tmp_path):
    vgg = small_vgg().float()
    torch.save(vgg.state_dict(), tmp_path / "vgg16.pth")
    net = vgg16_front_end(str(tmp_path / "vgg16.pth"), padding="same").double()
    assert net.final is None and net.channels == 5 and "weights" not in net.config
    expected = narrow(None, padding="same").load_torchvision(vgg.state_dict())
    assert torch.equal(net.eval()(image(40, 24)), expected.eval()(image(40, 24)))
    (tmp_path / "broken.pth").write_bytes(b"PK")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for name, message in (("broken", "cannot be read"), ("none", "cannot be read"), ("other", "features.0.weight")):
        with pytest.raises(WavedilError, match=message):
            vgg16_front_end(str(tmp_path / f"{name}.pth"))


def test_torchvision_weights_of_other_shapes_raise():
    net = narrow()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(WavedilError, match="no tensor features.2.weight: expected those of torchvision's vgg16"):
        net.load_torchvision({k: v for k, v in small_vgg().state_dict().items() if k != "features.2.weight"})
    with pytest.raises(WavedilError, match="features"):
        net.load_torchvision(small_vgg(batch_norm=True).state_dict())
    with pytest.raises(WavedilError, match=r"classifier.0.weight has shape \(5, 196\): expected \(6, 4, 7, 7\)"):
        narrow(hidden_channels=6).load_torchvision(small_vgg().state_dict())
    transposed = small_vgg().state_dict()
    transposed["classifier.0.weight"] = transposed["classifier.0.weight"].T
    with pytest.raises(WavedilError, match=r"classifier.0.weight has shape \(196, 5\)"):
        net.load_torchvision(transposed)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())  # nothing was copied


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 12}, "stride is 12: expected one of 4, 8, 16, 32"),
        ({"padding": "reflect"}, "padding is 'reflect': expected one of reflect_image, valid, same"),
        ({"widths": (64, 128)}, "expected the channels of the 5 stages of VGG-16"),
        ({"num_classes": 0}, "num_classes is 0: expected a positive integer"),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(WavedilError, match=message):
        narrow(**options)


@pytest.mark.parametrize("padding", ["reflect_image", "valid", "same"])
def test_invalid_images_raise(padding):
    net = narrow(padding=padding)
    for shape in ((1, 4, 400, 400), (3, 400, 400), (1, 3, 400, 0)):
        with pytest.raises(WavedilError):
            net(torch.zeros(shape, dtype=torch.float64))
    if padding == "valid":
        with pytest.raises(WavedilError, match="image is 400x372 pixels: padding='valid' needs at least 373"):
            net(image(400, 372))
