"""Dense networks of torchvision and timm: which equal the classifier at its cells, and which cannot."""

import pytest
import torch
from torch.nn import functional as F

from wavedil.vision import check_dense, to_dense

EXACT = [
    "torchvision resnet18",
    "torchvision vgg11_bn",
    "torchvision mobilenet_v2",
    "torchvision mnasnet0_5",
    "torchvision shufflenet_v2_x0_5",
    "torchvision googlenet",
    "timm resnet10t",  # average-pooling shortcuts
    "timm resnet18d",
    "timm resnetblur18",
    "timm convnext_atto",
    "timm efficientnet_lite0",
    "timm tf_efficientnet_lite0",  # TensorFlow's padding
    "timm mobilenetv4_conv_small_035",
    "timm regnetx_002",
    "timm dla46_c",
]
INEXACT = [  # network, stride, first layer that differs
    ("torchvision efficientnet_b0", 16, "features.6.0.block.2"),
    ("timm regnety_002", 16, "s4.b1.se"),
    ("timm skresnet18", 16, "layer4.0.conv1"),
    ("timm mobilenetv3_small_050", 8, "blocks.2.0.se"),
    ("timm convnextv2_atto", 16, "stages.3.blocks.0.mlp.grn"),
]


def image(*size, seed=1, dtype=torch.float64):
    return torch.randn(1, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("network", EXACT)
def test_exact(classifier, network):
    model = classifier(network)
    for stride in (16, 8):
        dense = to_dense(model, stride)
        report = check_dense(model, dense, size=(64, 96))
        assert report.exact and report.error < 1e-12 and report.layer is None, str(report)
        assert (report.output_stride, report.stride) == (dense.output_stride, dense.stride) == (stride, 32)
        with torch.no_grad():
            assert dense(image(64, 96, dtype=torch.float32)).shape == (1, dense.channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize(("network", "stride", "layer"), INEXACT)
def test_check_names_the_first_inexact_layer(classifier, network, stride, layer):
    model = classifier(network)
    dense = to_dense(model, stride)
    report = check_dense(model, dense, size=(64, 96))
    assert not report.exact and report.error > 0.01
    assert report.layer.endswith(f"layer {layer}"), report.layer
    assert "full map" in report.reason and report.layer in str(report)
    assert dense.receptive_field is None


# -- other implementations ---------------------------------------------------------------------------------------------


def test_equals_torchvisions_dilated_resnet():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    plain = models.resnet50().double().eval()
    theirs = models.resnet50(replace_stride_with_dilation=[False, True, True]).double().eval()
    theirs.load_state_dict(plain.state_dict())
    ours = to_dense(plain, 8)
    x = image(32, 40)
    with torch.no_grad():
        expected = theirs.layer4(
            theirs.layer3(theirs.layer2(theirs.layer1(theirs.maxpool(F.relu(theirs.bn1(theirs.conv1(x)))))))
        )
        torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "regnetx_002"])
def test_equals_timm_where_timm_is_exact(classifier, name):
    timm = pytest.importorskip("timm")
    plain = classifier(f"timm {name}").double()
    theirs = timm.create_model(name, output_stride=8).double().eval()
    theirs.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(to_dense(plain, 8)(image(45, 59)), theirs.forward_features(image(45, 59)))


def test_check_finds_that_timm_is_inexact(classifier):
    """timm does not dilate the average pooling of shortcuts."""
    timm = pytest.importorskip("timm")
    model = classifier("timm resnet10t")
    report = check_dense(model, timm.create_model("resnet10t", output_stride=8))
    assert not report.exact and report.error > 0.1 and report.layer is None
    assert check_dense(model, timm.create_model("resnet10t", output_stride=16)).exact


def test_benchmark_table():
    pytest.importorskip("timm")
    from wavedil.bench import dense, render, runner

    result = dense.bench_dense("cpu", networks=["timm test_resnet", "timm mobilenetv3_small_050"])
    head, _, exact, inexact = result["notes"]
    assert head.startswith("| network | wavedil, stride 16 | wavedil, stride 8 | other packages, stride 16 |")
    assert exact.startswith("| timm test_resnet | exact | exact | timm exact | timm ")
    assert inexact.startswith("| timm mobilenetv3_small_050 | 0.") and inexact.count("timm error") == 2
    assert "it uses a value that" in inexact
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["timm test_resnet, stride 8, wavedil"]["exact"]
    assert rows["timm mobilenetv3_small_050, stride 16, timm"]["note"] == "error"
    assert inexact in render(runner.describe("dense", "cpu") | result)
