import os
import sys

# Where Python is told to keep no bytecode, each of the processes that tests start would compile all of torch again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: a second thread only waits for its turn on a busy machine."""
    torch.set_num_threads(1)
