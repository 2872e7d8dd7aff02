import pytest
import torch


@pytest.fixture
def float64():
    """Seeded, and in float64: what the tests compare is then equal to rounding far below any real error."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
