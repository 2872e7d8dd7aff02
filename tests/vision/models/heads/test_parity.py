"""Equality with torchvision and segmentation_models.pytorch, with their weights."""

import pytest
import torch
from torch import nn

from wavedil.vision import ASPP, PyramidPooling, UNet
from wavedil.vision.models.heads.aspp import _Pyramid


def randomized(net):
    """Randomizes batch norms, so that no two layers have equal weights and statistics; float64."""
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return net.double()


def features(channels, *size, batch=3):
    return torch.randn(batch, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_equal(ours, theirs, x):
    """Compares outputs and gradients with respect to the input."""
    results = []
    for net in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = net(leaf)
        y.square().mean().backward()
        results.append((y, leaf.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(9, 14), (11, 5)])
def test_aspp_equals_torchvisions_head(training, size):
    deeplab = pytest.importorskip("torchvision.models.segmentation.deeplabv3")
    theirs = randomized(deeplab.DeepLabHead(10, 5, atrous_rates=(3, 6, 9)))
    ours = ASPP(10, 5, dilations=(3, 6, 9), dropout=0.0 if training else 0.5).double()
    ours.load_state_dict(theirs.state_dict())  # strict: same names
    theirs[0].project[3].p = 0.0
    assert_equal(ours.train(training), theirs.train(training), features(10, *size))
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_parameter_counts_of_torchvisions_head():
    with torch.device("meta"):
        assert sum(p.numel() for p in ASPP(2048, 21)[0].parameters()) == 15_535_104
        assert sum(p.numel() for p in ASPP(2048, 21).parameters()) == 15_535_104 + 9 * 256**2 + 512 + 257 * 21


def test_aspp_equals_smps():
    decoder = pytest.importorskip("segmentation_models_pytorch.decoders.deeplabv3.decoder")
    theirs = randomized(decoder.ASPP(10, 8, (2, 4, 6), separable=False, dropout=0.5)).eval()
    ours = _Pyramid(10, (2, 4, 6), 8, image_pooling=True, dropout=0.5).double().eval()
    ours.load_state_dict(theirs.state_dict())
    assert_equal(ours, theirs, features(10, 13, 18))


@pytest.mark.parametrize("size", [(12, 18), (13, 7), (4, 5)])
def test_pyramid_pooling_equals_smps(size):
    decoder = pytest.importorskip("segmentation_models_pytorch.decoders.pspnet.decoder")
    theirs = randomized(decoder.PSPDecoder([3, 12], out_channels=6)).eval()
    nn.init.normal_(theirs.psp.blocks[0].pool[1][0].bias)
    ours = PyramidPooling(12, 5, channels=6, kernel_size=1, align_corners=True).double().eval()
    weights = {"score.weight": torch.eye(6, dtype=torch.float64)[:5, :, None, None], "score.bias": torch.zeros(5)}
    for key, value in theirs.state_dict().items():
        if key.startswith("psp."):
            _, _, branch, _, _, layer, name = key.split(".")
            weights[f"branches.{branch}.{int(layer) + 1}.{name}"] = value
        else:  # they concatenate the features after the bins, we before them
            key = key.replace("conv.", "join.")
            weights[key] = torch.cat([value[:, 12:], value[:, :12]], 1) if key == "join.0.weight" else value
    # They use a bias in place of batch norm for the single bin: here a norm with unit scale and that bias.
    weights["branches.0.2.bias"] = weights.pop("branches.0.1.bias")
    weights["branches.0.2.weight"] = torch.full((3,), (1 + 1e-5) ** 0.5)
    defaults = ours.state_dict()
    weights |= {f"branches.0.2.{k}": defaults[f"branches.0.2.{k}"] for k in ("running_mean", "running_var")}
    weights["branches.0.2.num_batches_tracked"] = defaults["branches.0.2.num_batches_tracked"]
    ours.load_state_dict(weights)
    x = features(12, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs([x[:, :3], x])[:, :5], rtol=1e-6, atol=1e-6)


def test_unet_equals_smps_decoder():
    decoder = pytest.importorskip("segmentation_models_pytorch.decoders.unet.decoder")
    channels = [3, 5, 6, 7]
    theirs = randomized(
        decoder.UnetDecoder([1, *channels], [8, 6, 4, 9], n_blocks=4, interpolation_mode="bilinear")
    ).eval()
    ours = UNet(channels, 4, channels=[8, 6, 4]).double().eval()
    weights = {"score.weight": torch.eye(4, dtype=torch.float64)[:, :, None, None], "score.bias": torch.zeros(4)}
    for key, value in theirs.state_dict().items():
        _, step, conv, *rest = key.split(".")
        if step != "3":  # their last step has no finer map
            weights[".".join(["steps", step, str(int(conv[-1]) - 1), *rest])] = value
    ours.load_state_dict(weights)
    maps = [features(c, 32 // 2**i, 48 // 2**i) for i, c in enumerate(channels)]
    with torch.no_grad():
        x = maps[-1]
        for block, skip in zip(theirs.blocks, maps[-2::-1], strict=False):
            x = block(x, *skip.shape[2:], skip)
        torch.testing.assert_close(ours(maps), x)
