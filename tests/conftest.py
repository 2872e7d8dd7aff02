import os
import sys

# Where Python is told to keep no bytecode, each of the processes that tests start would compile all of torch again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import pytest  # noqa: E402
import torch  # noqa: E402

# Also for fixtures of modules and sessions, which are set up before the fixture below: rounding depends on the number.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sets one thread again: tensors are small, and a second thread only waits for its turn on a busy machine."""
    torch.set_num_threads(1)
