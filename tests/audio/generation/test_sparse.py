"""The numba engine skips blocks of zeros: the same numbers as without, for any size, precision, batch and threads."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wavedil.audio import WaveNet
from wavedil.audio.generation.engines.cpu import NumbaSession, sparse
from wavedil.audio.generation.engines.cpu.sparse import GROUP, pack_sparse
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.engines.rounded import RoundedSession
from wavedil.audio.generation.random_numbers import Uniforms

SIZES = [
    {"channels": 40, "hidden_channels": 36, "skip_channels": 72, "kernel_size": 3},
    {"channels": 21, "hidden_channels": 50, "skip_channels": 33, "distribution": "logistics", "components": 2},
    {"channels": 80, "hidden_channels": 64, "skip_channels": 16, "distribution": "gaussians", "input": "scalar"},
]


def sparse_plan(features=0, speaker=0, **options):
    """A plan with zeros in three of four blocks of 16 outputs x 4 inputs of all its weights, also of the head's."""
    torch.manual_seed(0)
    model = WaveNet(**{"dilations": [1, 3, 20], "sample_rate": 8000, **options})
    draw = torch.Generator().manual_seed(1)

    def prune(weight, rows=1):
        keep = torch.rand(-(-weight.shape[-2] // GROUP), -(-weight.shape[-1] // 4), generator=draw) < 0.25
        keep = keep.repeat_interleave(GROUP, 0).repeat_interleave(4, 1)
        return 3 * weight * keep[: weight.shape[-2], : weight.shape[-1]]

    plan = model.plan()
    count = features + speaker
    layers = [
        replace(
            layer,
            weight=prune(layer.weight),
            residual=None if layer.residual is None else prune(layer.residual),
            condition=prune(torch.randn(2 * plan.hidden, count, generator=draw) / 3) if count else None,
        )
        for layer in plan.layers
    ]
    head = tuple((prune(weight), bias) for weight, bias in plan.head)
    changes = {"skip_weight": prune(plan.skip_weight), "head": head}
    return model, replace(plan, layers=tuple(layers), condition_channels=features, speaker_channels=speaker, **changes)


def sessions(monkeypatch, *args, **options):
    """A session that skips blocks of zeros, and one that does not."""
    skipping = NumbaSession(*args, **options)
    monkeypatch.setattr(sparse, "LARGEST_SHARE", 0)
    dense = NumbaSession(*args, **options)
    monkeypatch.undo()
    starts = [session._groups[0].weights.starts for session in (skipping, dense)]
    assert (starts[0] < 0).mean() > 0.5 and not (starts[1] < 0).any()
    return skipping, dense


@pytest.mark.parametrize("options", SIZES)
@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 2), (7, 1)])
def test_codes_states_and_parameters(options, batch, threads, monkeypatch):
    model, plan = sparse_plan(features=5, speaker=3, **options)
    draw = torch.Generator().manual_seed(2)
    condition, speaker = torch.randn(batch, 5, 60, generator=draw), torch.randn(batch, 3, generator=draw)
    uniforms, start = Uniforms(0, batch).draw(60), model.start(batch)
    arguments = {"speaker": speaker, "guidance": 1.5}
    expected = TorchSession(plan, start, **arguments).sample(uniforms, condition)
    first, dense = sessions(monkeypatch, plan, start, threads=threads, **arguments)
    codes = first.sample(uniforms[:, :23], condition[..., :23])
    second = NumbaSession(plan, first.state(), threads=threads, **arguments)
    codes = torch.cat([codes, second.sample(uniforms[:, 23:], condition[..., 23:])], 1)
    assert torch.equal(codes, expected)
    assert torch.equal(dense.sample(uniforms, condition), expected)
    ours, theirs = second.state(), dense.state()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for precision in ("fp32", "bf16", "int8") if "distribution" not in options else ("fp32",):
        skipping, dense = sessions(monkeypatch, plan, start, threads=threads, precision=precision, **arguments)
        found = skipping.score(codes, condition)
        assert torch.equal(found, dense.score(codes, condition))
        definition = TorchSession if precision == "fp32" else RoundedSession
        exact = definition(plan, start, precision=precision, **arguments).score(codes, condition)
        error = (found - exact).abs() / exact.abs().max()
        assert error.median() < 1e-3 and error.max() < (1e-5 if precision == "fp32" else 0.05)


def test_few_blocks_of_zeros_are_not_skipped():
    words = np.ones((40, 64), np.float32)
    words[:8] = 0
    assert pack_sparse(words, 0, 40, 4) is None
    words[8:12] = 0
    assert pack_sparse(words, 0, 40, 4) is not None
    assert pack_sparse(words, 0, 30, 4) is None  # the others are padding
    words[8:12, :16], words[:, 16:] = 1, 0
    assert pack_sparse(words, 0, 40, 4) is None  # all in one group: its tile would be filled with zeros
