"""A loss defined outside the package that uses the dry input and the knob settings."""

import pytest
import torch
from torch import Tensor, nn

from wavedil.audio import Effect
from wavedil.audio.effects.losses import ESR, PreEmphasis, WeightedSum, compute_loss
from wavedil.train import EffectModule


class DrivenError(nn.Module):
    """Squared error weighted by the drive knob; ``seen`` records the arguments."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, output: Tensor, target: Tensor, dry: Tensor, knobs: Tensor | None = None) -> Tensor:
        self.seen.append((output, target, dry, knobs))
        weight = 1 if knobs is None else 1 + knobs[:, :1].unsqueeze(2)
        return (weight * (output - target).square()).mean()


class KnobsOnly(nn.Module):
    def forward(self, output: Tensor, target: Tensor, knobs: Tensor) -> Tensor:
        return knobs.sum() * (output - target).abs().mean()


OUTPUT, TARGET, DRY = (torch.randn(2, 1, time, generator=torch.Generator().manual_seed(time)) for time in (50, 50, 60))
KNOBS = torch.tensor([[0.5], [1.0]])


def test_each_loss_gets_the_arguments_that_it_declares():
    loss = DrivenError()
    weighted = torch.stack([1.5 * (OUTPUT[0] - TARGET[0]).square().mean(), 2 * (OUTPUT[1] - TARGET[1]).square().mean()])
    torch.testing.assert_close(compute_loss(loss, OUTPUT, TARGET, DRY, KNOBS), weighted.mean())
    assert torch.equal(loss.seen[0][2], DRY[..., 10:])  # aligned with the target
    only = KnobsOnly()(OUTPUT, TARGET, KNOBS)
    assert compute_loss(KnobsOnly(), OUTPUT, TARGET, DRY, KNOBS) == only
    assert compute_loss(ESR(), OUTPUT, TARGET, DRY, KNOBS) == ESR()(OUTPUT, TARGET)
    assert compute_loss(lambda output, target: output.sum(), OUTPUT, TARGET, DRY, KNOBS) == OUTPUT.sum()
    total = compute_loss(WeightedSum([ESR(), loss, KnobsOnly()], [1.0, 2.0, 0.5]), OUTPUT, TARGET, DRY, KNOBS)
    torch.testing.assert_close(total, ESR()(OUTPUT, TARGET) + 2 * weighted.mean() + 0.5 * only)


def test_pre_emphasis_filters_the_dry_input_too():
    loss = DrivenError()
    compute_loss(PreEmphasis(loss, 0.5), OUTPUT, TARGET, DRY, KNOBS)
    output, _, dry, knobs = loss.seen[0]
    torch.testing.assert_close(output, OUTPUT[..., 1:] - 0.5 * OUTPUT[..., :-1])
    torch.testing.assert_close(dry, DRY[..., 11:] - 0.5 * DRY[..., 10:-1])
    assert torch.equal(knobs, KNOBS)


@pytest.mark.parametrize("knobs", [{"drive": (0.0, 1.0)}, {}])
def test_training_passes_dry_input_and_knobs(knobs):
    pytest.importorskip("lightning")
    torch.manual_seed(0)
    loss = DrivenError()
    module = EffectModule(Effect(channels=4, skip_channels=4, dilations="1,2", kernel_size=2, knobs=knobs), loss=loss)
    batch = {"input": DRY, "target": TARGET, "knobs": KNOBS}
    module.training_step(batch, 0).backward()
    _, target, dry, settings = loss.seen[0]
    assert torch.equal(target, TARGET) and torch.equal(dry, DRY[..., 10:])
    assert torch.equal(settings, KNOBS) if knobs else settings is None
    assert all(torch.isfinite(p.grad).all() for p in module.network.parameters() if p.grad is not None)
