import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: a second thread only waits for its turn on a busy machine."""
    torch.set_num_threads(1)
