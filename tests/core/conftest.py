import pytest
import torch


@pytest.fixture
def float64():
    """Seeds torch and sets the default dtype to float64, so that rounding errors are far below real errors."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
