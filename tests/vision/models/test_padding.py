import numpy as np
import pytest
import torch

from wavedil.vision.models.padding import reflect


@pytest.mark.parametrize("shape", [(5,), (1,), (2, 7), (3, 1, 4)])
def test_reflection_of_any_width_equals_numpys(shape):
    x = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    pads = [(9, 4), (0, 6), (1, 0)][: len(shape)]
    y = reflect(x, pads)
    assert np.array_equal(y.detach(), np.pad(x.detach(), [(0, 0), (0, 0), *pads], mode="reflect"))
    y.sum().backward()  # the gradient counts how often each position is read
    positions = np.pad(np.arange(shape[0]), pads[0], mode="reflect")
    counts = torch.as_tensor(np.bincount(positions, minlength=shape[0])).double()
    others = np.prod([n + sum(pad) for n, pad in zip(shape[1:], pads[1:], strict=True)])
    torch.testing.assert_close(x.grad.sum((0, 1, *range(3, x.ndim))), counts * 6 * float(others))
