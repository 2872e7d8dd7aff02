"""Products of the compiled loop, in the instructions of this and of other CPUs, beside NumPy."""

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest

from wavedil.audio.generation.engines.cpu.arithmetic import VECTORS, Vectors
from wavedil.audio.generation.engines.cpu.products import make_product, product
from wavedil.ops.vector import address

_HOST = {name for name, is_there in llvm.get_host_cpu_features().items() if is_there}
MACHINES = {"host": None, "plain": set(), "avx2": {"avx2"}}
COUNT = 5  # words in a row of inputs


def run(machine, multiply, kind, words, x, scales, y):
    """``y += x @ w`` for every number of rows, and w in panels."""

    @numba.njit
    def compute(kind, w, x, scales, y):
        multiply(kind, address(w), address(x), 4 * x.shape[1], address(scales), 4, address(y), 4 * y.shape[1],
                 x.shape[1], y.shape[1], len(x))  # fmt: skip

    panels = [words[:, start : start + machine.panel].ravel() for start in range(0, words.shape[1], machine.panel)]
    compute(kind, np.concatenate(panels), x, scales, y)
    return y


CASES = [(name, np.int32) for name in MACHINES] + [("avx2", np.uint32)]  # test_numba.py has the others


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_product_equals_numpys(name, kind):
    if name == "avx2" and "avx2" not in _HOST:
        pytest.skip("this CPU has no AVX2")
    machine = VECTORS if name == "host" else Vectors(MACHINES[name])
    multiply = product if name == "host" else make_product(machine)[0]
    generator = np.random.default_rng(0)
    columns = machine.panel + (machine.tile + 1) * machine.lanes  # a panel, a tile and a single vector
    offset = machine.offset if kind == np.int32 else 0
    for rows in (1, 13):
        scales = generator.uniform(0.5, 2, rows).astype(np.float32)
        y = generator.normal(size=(rows, columns)).astype(np.float32)
        if kind == np.int32:  # the largest sums, too
            w, x = (
                generator.choice([-127, -100, -1, 0, 1, 77, 127], size)
                for size in ((4 * COUNT, columns), (rows, 4 * COUNT))
            )
            w[:, 0], x[0] = 127, -127
            column_scales = generator.uniform(0.5, 2, columns).astype(np.float32)
            first = (-offset * w.sum(0)).astype(np.int32)
            quads = w.reshape(COUNT, 4, columns).transpose(0, 2, 1).astype(np.int8)
            quads = np.ascontiguousarray(quads).view(np.int32)[..., 0]
            words = np.concatenate([column_scales.view(np.int32)[None], first[None], quads])
            inputs = (x + offset).astype(np.uint8).view(np.int32)
            expected = y + (x @ w) * (scales[:, None] * column_scales)
        else:
            sizes = (2 * COUNT, columns), (rows, 2 * COUNT)
            w, x = (generator.normal(size=size).astype(np.float32).view(np.uint32) >> 16 << 16 for size in sizes)
            words, inputs = w[0::2] >> 16 | w[1::2], x[:, 0::2] >> 16 | x[:, 1::2]
            expected = y + x.view(np.float32).astype(float) @ w.view(np.float32)
        found = run(machine, multiply, kind(0), words, np.ascontiguousarray(inputs), scales, y.copy())
        exact = kind != np.uint32 or machine.has_dot  # else the lower half of a pair adds to the upper
        np.testing.assert_allclose(found, expected, rtol=1e-5 if exact else 0.02, atol=1e-5 if exact else 0.05)
