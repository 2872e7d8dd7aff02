"""All heads: shapes, receptive fields, batches of one image, odd sizes, errors; then the computation of each head."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil import measure_receptive_field
from wavedil.core import fold_dilations
from wavedil.core.batch_norm import BatchNorm2d
from wavedil.errors import WavedilError
from wavedil.vision import (
    ASPP,
    ContextModule,
    Conv1x1Head,
    Degridding,
    FCN8s,
    FCNHead,
    LargeFOV,
    NonLocal,
    ParallelDilations,
    PyramidPooling,
    Segmenter,
    SmallBackbone,
    SummedASPP,
    SummedDilations,
    UNet,
    load,
    save,
)
from wavedil.vision.models import heads

SINGLE_MAP = [
    (Conv1x1Head, {}, 1),
    (ContextModule, {}, 67),
    (ASPP, {"channels": 6, "dilations": "2,4"}, None),
    (ASPP, {"channels": 6, "dilations": (2, 4), "image_pooling": False}, 11),
    (SummedASPP, {}, 49),
    (SummedASPP, {"dilations": [2, 3], "hidden_channels": 6}, 7),
    (LargeFOV, {"hidden_channels": 6}, 25),
    (FCNHead, {"channels": 6}, 3),
    (PyramidPooling, {"channels": 6}, None),
    (NonLocal, {"channels": 6}, None),
    (NonLocal, {"channels": 6, "inner_channels": 2, "subsample": 2}, None),
    (ParallelDilations, {"channels": 8}, 17),
    (SummedDilations, {"channels": 6}, 17),
    (SummedDilations, {"channels": 6, "dilations": [1, 3], "merged": True}, 7),
    (Degridding, {"channels": 6}, 7),
    (Degridding, {"channels": 6, "dilations": "2,2,1,1"}, 13),
]
MULTI_MAP = [(FCN8s, {}, 3), (UNet, {"channels": (6, 5, 4)}, 7)]
SCORE_LEVEL = {FCN8s: -3, UNet: 0}  # index of the feature map whose resolution the scores have; -1 for other heads
CHANNELS = [3, 6, 8, 7]  # fine to coarse


def make(head, options, in_channels=7, seed=0):
    torch.manual_seed(seed)
    return head(in_channels=in_channels, num_classes=5, **options).double()


def maps(*sizes, batch=2, channels=CHANNELS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, *size, dtype=torch.float64, generator=generator, requires_grad=True)
        for c, size in zip(channels, sizes, strict=True)
    ]


def halved(height, width):
    return [(-(-height // s), -(-width // s)) for s in (1, 2, 4, 8)]


def test_every_head_is_tested():
    assert {head.__name__ for head, _, _ in SINGLE_MAP + MULTI_MAP} - {"ContextModule"} == set(heads.__all__)


@pytest.mark.parametrize(("head", "options", "field"), SINGLE_MAP + MULTI_MAP)
@pytest.mark.parametrize("size", [(40, 24), (37, 23), (1, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_and_gradients(head, options, field, size, batch):
    features = maps(*halved(*size), batch=batch)
    net = make(head, options, CHANNELS)
    assert net.receptive_field == field
    for training in (True, False):  # also a batch of one image, after image pooling
        net.train(training)
        scores = net(features)
        assert scores.shape == (batch, 5, *features[SCORE_LEVEL.get(head, -1)].shape[2:])
        scores.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    if (head, options, field) in SINGLE_MAP:
        single = make(head, options, CHANNELS[-1])
        single.load_state_dict(net.state_dict())
        assert torch.equal(single.eval()(features[-1]), scores)


@pytest.mark.parametrize(("head", "options", "field"), [case for case in SINGLE_MAP if case[2]])
def test_receptive_field_equals_the_measured_one(head, options, field):
    measured = measure_receptive_field(make(head, options), 7, ndim=2, size=2 * field + 1, seeds=1)
    assert measured.extent == (field, field) and measured.left == measured.right


@pytest.mark.parametrize(("head", "options", "field"), MULTI_MAP)
def test_receptive_field_of_heads_with_several_maps(head, options, field):
    """It depends on the position; the maximum is compared."""
    net = make(head, options, CHANNELS).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_().add_(0.1)
    reached = []
    for column in range(80, 88):
        features = [m.detach().abs().requires_grad_() for m in maps(*halved(8, 160))]
        net(features)[..., column // (2 if head is FCN8s else 1)].sum().backward()
        columns = features[-1].grad.abs().sum((0, 1, 2)).nonzero().flatten()
        reached.append(int(columns[-1] - columns[0]) + 1)
    assert max(reached) == field == net.receptive_field


@pytest.mark.parametrize(("head", "options", "field"), [case for case in SINGLE_MAP if case[2] is None])
def test_heads_without_receptive_field_see_the_full_map(head, options, field):
    net = make(head, options).eval()
    for norm in [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.5, 1)
        nn.init.uniform_(norm.bias, 0, 1)
    (x,) = maps((20, 20), batch=1, channels=[7])
    net(x)[..., 0, 0].sum().backward()
    assert x.grad[..., -6:, -6:].any()


@pytest.mark.parametrize(("head", "options", "field"), SINGLE_MAP + MULTI_MAP)
def test_invalid_inputs_raise(head, options, field):
    with pytest.raises(WavedilError, match="num_classes is 0: expected a positive integer"):
        head(in_channels=CHANNELS, num_classes=0, **options)
    net = make(head, options, CHANNELS)
    with pytest.raises(WavedilError, match="space axes"):
        net([m[:, :2] for m in maps(*halved(16, 16))])
    with pytest.raises(WavedilError, match=r"features is a list of 0 feature maps: expected a list of at least \d"):
        net([])
    if (head, options, field) in MULTI_MAP:
        with pytest.raises(WavedilError, match="features is a single feature map: expected a list"):
            net(maps(*halved(16, 16))[0])
        with pytest.raises(WavedilError, match="in_channels is 7: expected a list of"):
            head(7, 5)
        with pytest.raises(WavedilError, match="expected size / stride cells"):
            net(maps((40, 40), (20, 20), (4, 10), (5, 5)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PyramidPooling(3, 5), r"bins is \(1, 2, 3, 6\): expected 1 to 3 positive integers"),
        (lambda: PyramidPooling(8, 5, bins=[0, 1]), r"bins is \[0, 1\]"),
        (
            lambda: ParallelDilations(8, 5, "1,2,4", channels=16),
            "channels is 16: expected a multiple of the 3 branches",
        ),
        (lambda: NonLocal(8, 5, subsample=0), "subsample is 0"),
        (lambda: UNet([3, 4, 5], 5, channels=[8]), r"channels is \[8\]: expected one number for each of 2 steps"),
        (lambda: ASPP(8, 5, dilations=[]), "the schedule is empty"),
        (lambda: UNet([3, 4, 5], 5)(maps(*halved(8, 8))), "features is a list of 4 feature maps: expected 3"),
        (lambda: heads.parts.ConvNormReLU(3, 4, 4), "ndim is 3"),
    ],
)
def test_invalid_arguments_raise(build, message):
    with pytest.raises(WavedilError, match=message):
        build()


# -- batch norm of one value per channel ------------------------------------------------------------------------------


def test_batch_norm_of_one_value_uses_running_statistics():
    norm, plain = BatchNorm2d(3), nn.BatchNorm2d(3)
    batch = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(norm(batch), plain(batch))  # larger inputs: as in torch
    one = torch.randn(1, 3, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        plain(one)
    torch.testing.assert_close(norm(one), plain.eval()(one))
    torch.testing.assert_close(norm.running_mean, plain.running_mean)  # not updated by the single value


# -- computation of each head -----------------------------------------------------------------------------------------


def conv(layer, x, dilation=1):
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2 * dilation, dilation=dilation)


def test_summed_aspp_is_the_sum_of_its_branches():
    (x,) = maps((11, 9), channels=[7])
    net = make(SummedASPP, {"dilations": "1,3,6"})
    torch.testing.assert_close(net(x), sum(conv(b, x, d) for b, d in zip(net.branches, (1, 3, 6), strict=True)))
    wide = make(SummedASPP, {"dilations": "2,5", "hidden_channels": 4}).eval()
    want = 0
    for branch, dilation in zip(wide.branches, (2, 5), strict=True):
        h = conv(branch.fc7.conv, conv(branch.fc6.conv, x, dilation).relu()).relu()
        want = want + conv(branch.score, h)
    torch.testing.assert_close(wide(x), want)


def test_running_sums_of_parallel_dilations_fill_the_grid():
    net = make(ParallelDilations, {"dilations": "1,2,4", "channels": 6}).eval()
    (x,) = maps((11, 9), channels=[7])
    one, two, four = (conv(b, net.reduce(x), d) for b, d in zip(net.branches, (1, 2, 4), strict=True))
    joined = torch.cat([one, one + two, one + two + four], dim=1) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(net(x), conv(net.score, joined.relu()))
    measured = measure_receptive_field(net, 7, ndim=2, seeds=1)
    assert measured.reached == 25  # 9 of each dilation, the center shared


def test_summed_dilations_merge_and_save_merged(tmp_path):
    torch.manual_seed(0)
    net = Segmenter(SmallBackbone(8, 4), SummedDilations(8, 3, "1..4", channels=6), num_classes=3).double()
    image = torch.rand(2, 3, 40, 36, dtype=torch.float64)
    for _ in range(3):
        net(image)  # collects running statistics
    expected = net.eval()(image)
    fold_dilations(net)
    assert net.head.sum.weight.shape == (6, 6, 9 + 8 + 8)  # the center shared
    torch.testing.assert_close(net(image), expected)
    save(net, tmp_path / "merged")
    torch.testing.assert_close(load(tmp_path / "merged").double()(image), expected)


def test_degridding_fills_the_holes_of_a_dilated_layer():
    gridded = nn.Sequential(nn.Conv2d(2, 2, 3, padding=4, dilation=4), nn.ReLU())
    assert measure_receptive_field(gridded, 2, ndim=2, seeds=1).holes == 81 - 9
    degridded = nn.Sequential(gridded, Degridding(2, 3, channels=2))
    measured = measure_receptive_field(degridded, 2, ndim=2, seeds=1)
    assert measured.extent == (15, 15) and measured.holes == 0


@pytest.mark.parametrize("subsample", [1, 2])
def test_non_local_is_attention_over_all_cells(subsample):
    net = make(NonLocal, {"channels": 6, "inner_channels": 4, "subsample": subsample}).eval()
    (x,) = maps((5, 7), channels=[7])
    h = net.reduce(x)
    torch.testing.assert_close(net(x), conv(net.score, h))  # the block starts as the identity
    nn.init.uniform_(net.out[1].weight)
    nn.init.uniform_(net.out[1].bias)
    kept = F.max_pool2d(h, subsample, ceil_mode=True)
    query = conv(net.query, h)
    key, value = conv(net.key, kept), conv(net.value, kept)
    weights = (torch.einsum("bchw,bcij->bhwij", query, key) / 2).flatten(3).softmax(-1)  # 2 = sqrt of 4 channels
    attended = torch.einsum("bhwn,bcn->bchw", weights, value.flatten(2))
    torch.testing.assert_close(net(x), conv(net.score, h + net.out(attended)))


def test_fcn8s_adds_finer_scores_to_upsampled_ones():
    net = make(FCN8s, {}, CHANNELS)
    _, fine, middle, coarse = features = maps(*halved(16, 24))
    double = {"scale_factor": 2, "mode": "bilinear", "align_corners": False}
    upsampled = F.interpolate(F.interpolate(conv(net.scores[2], coarse), **double), **double)
    torch.testing.assert_close(net(features), upsampled)  # the finer maps start with zero weights
    for layer in net.scores[:2]:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    want = upsampled + F.interpolate(conv(net.scores[1], middle), **double) + conv(net.scores[0], fine)
    torch.testing.assert_close(net(features), want)
    torch.testing.assert_close(net(features[1:]), want)


def test_unet_on_maps_of_a_dilated_backbone():
    sizes = [(15, 9), (8, 5), (8, 5), (8, 5)]  # stride 2 once, then dilation
    net = make(UNet, {"channels": (6, 5, 4)}, CHANNELS).eval()
    features = maps(*sizes)
    x = features[3]
    for step, skip in zip(net.steps[:2], features[2:0:-1], strict=True):
        x = step(torch.cat([x, skip], dim=1))
    x = F.interpolate(x, scale_factor=2, mode="bilinear")[..., :15, :9]
    torch.testing.assert_close(net(features), conv(net.score, net.steps[2](torch.cat([x, features[0]], dim=1))))
    assert [step[0][0].out_channels for step in UNet([8, 16, 32, 64, 128], 2).steps] == [256, 128, 64, 32]
