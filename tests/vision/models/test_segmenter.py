"""Segmenter: sizes, receptive fields, normalization, refinement, and model folders."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wavedil import measure_receptive_field
from wavedil.audio import WaveNet
from wavedil.errors import WavedilError
from wavedil.vision import (
    ASPP,
    CRFRNN,
    ContextModule,
    Conv1x1Head,
    PixelUnshuffle,
    Regressor,
    Segmenter,
    SmallBackbone,
    UNet,
    VGGFrontEnd,
    load,
    save,
)


def small(num_classes=3, context=True, **options):
    torch.manual_seed(0)
    context = ContextModule(num_classes, dilations="1,2", sigma=0.1) if context else None
    return Segmenter(
        SmallBackbone(8, 4), Conv1x1Head(8, num_classes), context, num_classes=num_classes, **options
    ).eval()


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (1, 1), (3, 40)])
def test_scores_have_the_size_of_the_image(size):
    model, image = small(), torch.rand(2, 3, *size)
    assert model(image).shape == (2, 3, *size)
    cells = tuple(-(-n // 4) for n in size)
    scores, stride = model.coarse_scores(image)
    assert scores.shape == (2, 3, *cells) and stride == 4


def test_images_are_padded_with_the_mean_color():
    model = small()
    image = torch.rand(1, 3, 10, 9)
    mean = torch.tensor(model.config["mean"]).view(1, 3, 1, 1)
    padded = mean.expand(1, 3, 12, 12).clone()
    padded[..., :10, :9] = image
    torch.testing.assert_close(model(image), model(padded)[..., :10, :9])


def test_the_backbone_gets_the_normalized_image():
    model, image = small(mean=(0.5, 0.2, 0.1), std=(0.1, 0.2, 0.4)), torch.rand(1, 3, 8, 8)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(image)
    expected = (image - torch.tensor([0.5, 0.2, 0.1]).view(3, 1, 1)) / torch.tensor([0.1, 0.2, 0.4]).view(3, 1, 1)
    torch.testing.assert_close(seen[0], expected)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels", "stride", "field"), [(4, 1, 3), (4, 2, 9), (8, 4, 21), (16, 8, 45)])
def test_receptive_field_equals_the_measured_one(channels, stride, field):
    backbone = SmallBackbone(channels, stride)
    assert backbone.receptive_field == field == measure_receptive_field(backbone, 3, ndim=2, seeds=2).extent[0]
    model = Segmenter(backbone, Conv1x1Head(channels, 2), ContextModule(2, dilations="1,2"), num_classes=2)
    assert model.receptive_field == field + 6 * stride


def test_receptive_field_is_none_for_the_full_image_and_the_maximum_of_two_axes():
    assert Segmenter(SmallBackbone(8, 4), ASPP(8, 3, (1, 2), 4), num_classes=3).receptive_field is None
    backbone = SmallBackbone(8, 4)
    backbone.__class__ = type("Unknown", (SmallBackbone,), {"receptive_field": None})
    assert Segmenter(backbone, Conv1x1Head(8, 3), num_classes=3).receptive_field is None
    backbone.__class__ = type("TwoAxes", (SmallBackbone,), {"receptive_field": (9, 21)})
    assert Segmenter(backbone, Conv1x1Head(8, 3), num_classes=3).receptive_field == 21


def test_heads_with_several_maps_give_finer_scores():
    class Pyramid(nn.Module):
        channels, output_stride, level_channels, receptive_field = 6, 4, (4, 6), 9

        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

        def forward(self, x):
            fine = self.fine(x)
            return [fine, self.coarse(fine)]

    model = Segmenter(Pyramid(), UNet((4, 6), 3), num_classes=3).eval()
    image = torch.rand(1, 3, 18, 21)
    scores, stride = model.coarse_scores(image)
    assert scores.shape == (1, 3, 9, 11) and stride == 2 and model(image).shape == (1, 3, 18, 21)


def test_receptive_field_of_the_network_of_the_paper():
    front = VGGFrontEnd(None, widths=(2, 2, 2, 2, 2), hidden_channels=4)
    model = Segmenter(front, Conv1x1Head(4, 3), ContextModule(3), num_classes=3)
    assert (model.output_stride, model.receptive_field) == (8, 908)


def test_pixel_unshuffle_cells_hold_image_patches():
    backbone, image = PixelUnshuffle(2), torch.rand(1, 3, 6, 8)
    assert (backbone.channels, backbone.output_stride) == (12, 2) and list(backbone.parameters()) == []
    assert backbone.receptive_field == 2 == measure_receptive_field(backbone, 3, ndim=2, seeds=2).extent[0]
    cell = backbone(image)[0, :, 1, 2].view(3, 2, 2)
    assert torch.equal(cell, image[0, :, 2:4, 4:6])
    with pytest.raises(WavedilError, match="output_stride is 0"):
        PixelUnshuffle(0)


def with_crf(num_classes=3, **options):
    model = small(num_classes, **options)
    crf = CRFRNN(num_classes, iterations=2, bilateral_sxy=20.0, bilateral_srgb=20.0)
    arguments = model.config | {"backbone": model.backbone, "head": model.head, "context": model.context}
    return Segmenter(**arguments | {"refinement": crf}).eval()


def test_refinement_gets_the_uint8_image_and_scores_at_every_pixel():
    model = with_crf()
    pixels = torch.randint(0, 256, (2, 3, 17, 22), dtype=torch.uint8)
    plain = Segmenter(model.backbone, model.head, model.context, num_classes=3).eval()
    expected = model.refinement(pixels, plain(pixels / 255))
    torch.testing.assert_close(model(pixels / 255), expected)
    assert (expected - plain(pixels / 255)).abs().max() > 0.1
    assert model.receptive_field == plain.receptive_field  # of the scores before refinement


def test_gradients_reach_all_parameters_through_the_refinement():
    model = with_crf().train()
    loss = nn.functional.cross_entropy(model(torch.rand(1, 3, 20, 17)), torch.randint(0, 3, (1, 20, 17)))
    loss.backward()
    names = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert names == [] and {name.split(".")[0] for name, _ in model.named_parameters()} == {
        "backbone", "head", "context", "refinement"
    }  # fmt: skip


def test_a_trained_refinement_is_saved_and_loaded(tmp_path):
    model = with_crf()
    model.refinement.compatibility.data.mul_(0.7)
    again = load(save(model, tmp_path / "model"))
    image = torch.rand(1, 3, 12, 9)
    assert again.refinement.iterations == 2 and torch.equal(again(image), model(image))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Segmenter(nn.Conv2d(3, 4, 3), Conv1x1Head(4, 2), num_classes=2),
            "a Conv2d without channels and output_stride: expected",
        ),
        (lambda: small(classes=["a"]), "classes has 1 name: expected one for each of 3"),
        (lambda: small(align="left"), "align is 'left'"),
        (lambda: small(std=(1, 1, 0)), "std is .*: expected a list of numbers above 0"),
        (lambda: small()(torch.rand(3, 8, 8)), "image is torch.float32 of shape"),
        (lambda: small()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), "image is torch.uint8"),
        (lambda: small()(torch.rand(1, 1, 8, 8)), "expected floats"),
        (lambda: small()(torch.rand(1, 3, 0, 8)), "expected floats"),
        (
            lambda: Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 2), num_classes=3)(torch.rand(1, 3, 8, 8)),
            "return 2 channels: expected 3",
        ),
        (lambda: SmallBackbone(8, 3), "output_stride is 3"),
        (lambda: SmallBackbone(9, 4), "channels is 9"),
    ],
)
def test_invalid_arguments_and_inputs_raise(make, message):
    with pytest.raises(WavedilError, match=message):
        make()


# -- model folders ----------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    model = small(classes=("sky", "road", "car"), palette=[(1, 2, 3)] * 3, ignore_label=None, scale=0.5)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.1)
    folder = save(model.train(), tmp_path / "model")
    again = load(folder)
    assert not again.training and again.config == model.config
    assert (again.classes, again.palette[0], again.scale) == (["sky", "road", "car"], (1, 2, 3), 0.5)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    image = torch.rand(1, 3, 9, 12)
    expected = small(ignore_label=None)
    expected.load_state_dict(model.state_dict())
    assert torch.equal(again(image), expected.eval()(image))
    config = json.loads((folder / "config.json").read_text())
    assert config["arguments"]["head"] == {
        "class": "wavedil.vision.models.heads.conv1x1.Conv1x1Head",
        "arguments": {"in_channels": 8, "num_classes": 3},
    }
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config["arguments"])
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["head"].update({"class": "os.system"}), "names the class 'os.system'"),
        (lambda a: a["head"].update({"class": ["Conv1x1Head"]}), r"names the class \['Conv1x1Head'\]"),
        (lambda a: a["head"]["arguments"].update(num_classes="3"), "cannot build a Segmenter.*num_classes"),
        (lambda a: a["head"]["arguments"].update(classes=3), "Conv1x1Head has no argument 'classes'"),
        (lambda a: a["backbone"].update(arguments=[]), "arguments of SmallBackbone are"),
        (lambda a: a.update(backbone="SmallBackbone"), "cannot build a Segmenter"),
        (lambda a: a["backbone"]["arguments"].update(channels=16), "does not fit"),
        (lambda a: a.update(num_classes=4), "does not fit|4"),
        (lambda a: a.update(context=None), "context.*missing in the model"),
    ],
)
def test_malformed_parts_raise_one_line_errors(tmp_path, change, message):
    folder = save(small(classes=["a", "b", "c"]), tmp_path / "model")
    edit(folder, change)
    with pytest.raises(WavedilError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_the_error_names_a_missing_tensor(tmp_path):
    folder = save(small(), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("context.final.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WavedilError, match=r"context.final.bias is missing in the file"):
        load(folder)


def write_format_1(folder, name, arguments):
    (folder / "config.json").write_text(json.dumps({"format": 1, "model": name, "arguments": arguments}))


def test_format_1_folders_with_renamed_classes_and_arguments_load(tmp_path):
    torch.manual_seed(0)
    model = Segmenter(PixelUnshuffle(2), ASPP(12, 3, (1, 2), 4), num_classes=3, align="center").eval()
    folder = save(model, tmp_path / "segmenter")
    head = {"in_channels": 12, "num_classes": 3, "rates": [1, 2], "channels": 4}
    parts = {
        "backbone": {"model": "Patches", "arguments": {"output_stride": 2}},
        "head": {"model": "ASPP", "arguments": head},
    }
    write_format_1(folder, "Segmenter", parts | {"num_classes": 3, "align": "centre"})
    image = torch.rand(1, 3, 12, 10)
    assert torch.equal(load(folder)(image), model(image))
    model = Regressor(PixelUnshuffle(2), Conv1x1Head(12, 1), target_mean=5.0, target_std=2.0).eval()
    folder = save(model, tmp_path / "regressor")
    parts["head"] = {"model": "Score", "arguments": {"in_channels": 12, "num_classes": 1}}
    write_format_1(folder, "Regressor", parts | {"centre": 5.0, "spread": 2.0})
    assert torch.equal(load(folder)(image), model(image))


class Unregistered(SmallBackbone):
    """A subclass that is not registered."""


SameName = type("SmallBackbone", (SmallBackbone,), {})  # a class of this name is registered


@pytest.mark.parametrize("backbone", [Unregistered, SameName])
def test_unregistered_parts_are_not_saved(tmp_path, backbone):
    model = Segmenter(backbone(8, 4), Conv1x1Head(8, 3), num_classes=3)
    with pytest.raises(
        WavedilError, match=r"cannot save Segmenter.backbone: .*(Unregistered|SmallBackbone) is neither"
    ):
        save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_load_raises_for_another_class_than_expected(tmp_path):
    folder = save(small(), tmp_path / "model")
    with pytest.raises(WavedilError, match="holds a Segmenter: expected a WaveNet"):
        load(folder, expect=WaveNet)


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_the_levels_of_the_small_backbone(tmp_path, stride):
    torch.manual_seed(0)
    backbone, image = SmallBackbone(16, stride, 1, levels=True).eval(), torch.rand(1, 1, 24, 16)
    maps, strides = backbone(image), [2**step for step in range(stride.bit_length())]
    assert backbone.level_channels == [16 * s // stride for s in strides] == [each.shape[1] for each in maps]
    assert [each.shape[2:] for each in maps] == [(24 // s, 16 // s) for s in strides]
    single = SmallBackbone(16, stride, 1).eval()
    single.load_state_dict(backbone.state_dict())
    assert torch.equal(maps[-1], single(image)) and single.level_channels is None
    if stride > 1:
        model = Segmenter(backbone, UNet(backbone.level_channels, 2), num_classes=2).eval()
        assert torch.equal(load(save(model, tmp_path / "model"))(image), model(image))
