"""Products of the compiled loop, in the instructions of this and of other CPUs, beside NumPy."""

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest

from wavedil.audio.generation.engines.cpu.arithmetic import VECTORS, Vectors
from wavedil.audio.generation.engines.cpu.products import make_product, product
from wavedil.audio.generation.engines.cpu.sparse import pack_sparse
from wavedil.ops.vector import address

_HOST = {name for name, is_there in llvm.get_host_cpu_features().items() if is_there}
MACHINES = {"host": None, "plain": set(), "avx2": {"avx2"}}
COUNT = 5  # words in a row of inputs


def make_function(multiply):
    @numba.njit
    def compute(kind, w, start, x, scales, y):
        multiply(kind, address(w), start, address(x), 4 * x.shape[1], address(scales), 4, address(y), 4 * y.shape[1],
                 x.shape[1], y.shape[1], len(x))  # fmt: skip

    return compute


CASES = [(name, np.int32) for name in MACHINES] + [("avx2", np.uint32)]  # test_numba.py has the others


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_product_equals_numpys_also_without_blocks_of_zeros(name, kind):
    if name == "avx2" and "avx2" not in _HOST:
        pytest.skip("this CPU has no AVX2")
    machine = VECTORS if name == "host" else Vectors(MACHINES[name])
    compute = make_function(product if name == "host" else make_product(machine))
    generator = np.random.default_rng(0)
    columns = machine.panel + (machine.tile + 1) * machine.lanes  # a panel, a tile and a single vector
    columns += -columns % 16
    offset = machine.offset if kind == np.int32 else 0
    used = generator.random((COUNT, columns // 16)) < 0.4
    used[:, 1] = False
    for rows, is_sparse in ((1, False), (13, False), (1, True), (13, True)):
        scales = generator.uniform(0.5, 2, rows).astype(np.float32)
        y = generator.normal(size=(rows, columns)).astype(np.float32)
        header = 0
        mask = np.kron(used, np.ones((1, 16), int)) if is_sparse else np.ones((COUNT, columns), int)
        if kind == np.int32:  # the largest sums, too
            w, x = (
                generator.choice([-127, -100, -1, 0, 1, 77, 127], size)
                for size in ((4 * COUNT, columns), (rows, 4 * COUNT))
            )
            w[:, 0], x[0] = 127, -127
            w *= mask.repeat(4, 0)
            column_scales = generator.uniform(0.5, 2, columns).astype(np.float32)
            first = (-offset * w.sum(0)).astype(np.int32)
            quads = w.reshape(COUNT, 4, columns).transpose(0, 2, 1).astype(np.int8)
            quads = np.ascontiguousarray(quads).view(np.int32)[..., 0]
            header, words = 2, np.concatenate([column_scales.view(np.int32)[None], first[None], quads])
            inputs = (x + offset).astype(np.uint8).view(np.int32)
            expected = y + (x @ w) * (scales[:, None] * column_scales)
        else:
            sizes = (2 * COUNT, columns), (rows, 2 * COUNT)
            w, x = (generator.normal(size=size).astype(np.float32).view(np.uint32) >> 16 << 16 for size in sizes)
            w *= mask.repeat(2, 0).astype(np.uint32)
            words, inputs = w[0::2] >> 16 | w[1::2], x[:, 0::2] >> 16 | x[:, 1::2]
            expected = y + x.view(np.float32).astype(float) @ w.view(np.float32)
        panels = [words[:, start : start + machine.panel].ravel() for start in range(0, columns, machine.panel)]
        packed, start = np.concatenate(panels), 0
        inputs, dense = np.ascontiguousarray(inputs), y.copy()
        compute(kind(0), packed, 0, inputs, scales, dense)
        exact = kind != np.uint32 or machine.has_dot  # else the lower half of a pair adds to the upper
        np.testing.assert_allclose(dense, expected, rtol=1e-5 if exact else 0.02, atol=1e-5 if exact else 0.05)
        packed = pack_sparse(words, header, COUNT, machine.groups)
        assert (packed is not None) == is_sparse
        if is_sparse:
            found, start = y.copy(), 7
            compute(kind(0), np.concatenate([np.zeros(start, packed.dtype), packed]), ~start, inputs, scales, found)
            np.testing.assert_array_equal(found, dense)
