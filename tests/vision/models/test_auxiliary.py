"""Auxiliary heads: which map they read, that only training uses them, and models without them."""

import json

import pytest
import torch
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.vision import (
    ContextModule,
    Conv1x1Head,
    FCNHead,
    Segmenter,
    SmallBackbone,
    TimmBackbone,
    load,
    save,
    upsample,
)


def test_fcn_head_is_that_of_torchvision():
    theirs = pytest.importorskip("torchvision.models.segmentation.fcn").FCNHead(8, 3)
    ours = FCNHead([4, 8], 3).train()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 8, 5, 6)
    for head in (ours, theirs):
        head.eval()
    torch.testing.assert_close(ours([x, x]), theirs(x))


@pytest.fixture(scope="module")
def pspnet():
    torch.manual_seed(0)
    backbone = TimmBackbone("test_resnet", 8, levels=[2, 4])
    channels = backbone.level_channels
    return Segmenter(
        backbone, Conv1x1Head(channels, 3), ContextModule(3), num_classes=3, auxiliary=FCNHead(channels[1], 3)
    )


@pytest.mark.parametrize("size", [(16, 24), (13, 19)])
def test_it_reads_the_last_map_but_one_at_its_stride(pspnet, size):
    image = torch.rand(2, 3, *size)
    pspnet.eval()
    scores, auxiliary = pspnet.training_scores(image)
    torch.testing.assert_close(scores, pspnet(image))
    padded = F.pad((image - pspnet.mean) / pspnet.std, (0, -size[1] % 8, 0, -size[0] % 8))
    fine = pspnet.auxiliary(pspnet.backbone(padded)[1])[:, :, : -(-size[0] // 4), : -(-size[1] // 4)]
    torch.testing.assert_close(auxiliary, upsample(fine, size, stride=4, align=pspnet.align))


def test_gradients_of_its_loss_reach_the_backbone_only(pspnet):
    pspnet.train()
    pspnet.zero_grad()
    pspnet.training_scores(torch.rand(2, 3, 16, 16))[1].sum().backward()
    assert all(p.grad is None for p in [*pspnet.head.parameters(), *pspnet.context.parameters()])
    assert any(p.grad is not None for p in pspnet.backbone.parameters())


def test_it_is_saved_and_models_without_it_load(pspnet, tmp_path):
    again = load(save(pspnet.eval(), tmp_path / "model"))
    assert again.auxiliary_level == -2
    for key, value in pspnet.auxiliary.state_dict().items():
        assert torch.equal(again.auxiliary.state_dict()[key], value)
    old = Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), num_classes=3).eval()
    folder = save(old, tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    for name in ("auxiliary", "auxiliary_level"):  # as written by a version without them
        del config["arguments"][name]
    (folder / "config.json").write_text(json.dumps(config))
    image = torch.rand(1, 3, 9, 9)
    assert load(folder).auxiliary is None and torch.equal(load(folder)(image), old(image))


def test_a_map_that_is_not_there_is_refused():
    model = Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), num_classes=3, auxiliary=FCNHead(8, 3))
    with pytest.raises(WavedilError, match="auxiliary_level is -2, and the backbone returns 1 feature map: .* -1 to 0"):
        model.training_scores(torch.rand(1, 3, 8, 8))
    with pytest.raises(WavedilError, match="auxiliary_level is 99"):
        Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), num_classes=3, auxiliary_level=99)
    model.auxiliary_level = -1
    assert model.training_scores(torch.rand(1, 3, 8, 8))[1].shape == (1, 3, 8, 8)
    with pytest.raises(WavedilError, match="return 4 channels: expected 3"):
        model.auxiliary = FCNHead(8, 4)
        model.training_scores(torch.rand(1, 3, 8, 8))
