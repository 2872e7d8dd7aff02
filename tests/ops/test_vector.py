"""Compiled kernels: the cache on disk, and the message while one is compiled."""

import os
import subprocess
import sys

LOOP = """
import logging, sys
from wavedil.ops.vector import loop
@loop(announce="a test")
def double(x):
    return 2 * x
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
print(double(3), double(4))
"""


def run(path, cache) -> str:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=environment, check=True)
    return done.stdout


def test_compiling_is_logged_and_loading_is_not(tmp_path):
    path = tmp_path / "double.py"
    path.write_text(LOOP)
    assert run(path, tmp_path / "cache") == "compiling a test; the result is cached for later runs\n6 8\n"
    assert run(path, tmp_path / "cache") == "6 8\n"  # from the cache
