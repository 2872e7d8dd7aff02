"""Number formats of products as LLVM vector code: how words of 4 bytes are multiplied and added up.

A word is a float32; a pair of bfloat16 (type uint32), the first in the lower half; or four int8 (type int32), the first
in the lowest byte. The products of int8 numbers are added up exactly, in int32, on every machine.
"""

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function

_float, _int, _short, _byte = ir.FloatType(), ir.IntType(32), ir.IntType(16), ir.IntType(8)


def call(builder, name, result, arguments):
    """Calls an LLVM intrinsic."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(get_or_insert_function(builder.module, kind, name), arguments)


def splat(builder, value, lanes):
    """A vector with all elements equal to a value."""
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_int, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_int, lanes), [0] * lanes))


class Float32:
    """One float32 per word. Every output is one chain of fused multiply-adds over k, starting from y."""

    word = _float
    #: Of the CPU, for messages.
    instructions = "FMA"
    #: Rows of 4-byte numbers before the words of each panel of weights.
    header = 0
    #: Rows of the largest tile, by the number of lanes. There are 32 vector registers of 16 lanes, 16 of 8 lanes.
    max_rows = {16: 6, 8: 6, 4: 6}

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.floats, self.ints = ir.VectorType(_float, lanes), ir.VectorType(_int, lanes)
        self.words = ir.VectorType(self.word, lanes)
        self.sums = self.floats

    def weights(self, builder, loaded):
        """Loaded words as :meth:`add` takes them; those of several rows stay in registers in this form."""
        return [loaded]

    def inputs(self, builder, loaded):
        """A splat input word as :meth:`add` takes it."""
        return [loaded]

    def add(self, builder, weights, inputs, total):
        """The sums plus the products of weights and inputs."""
        for w, x in zip(weights, inputs, strict=True):
            total = call(builder, f"llvm.fma.v{self.lanes}f32", self.floats, [w, x, total])
        return total


class PairsOfBfloat16(Float32):
    """The first multiply-add is that of the lower half.

    The upper half of a weight is used with the lower half below it, which saves a mask for each weight: ``formats`` has
    rounded for that.
    """

    word = _int
    instructions = "no bf16 instructions"
    max_rows = {16: 6, 8: 4, 4: 6}

    def weights(self, builder, loaded):
        lower = builder.shl(loaded, ir.Constant(self.ints, [16] * self.lanes))
        return [builder.bitcast(lower, self.floats), builder.bitcast(loaded, self.floats)]

    def inputs(self, builder, loaded):
        upper = builder.and_(loaded, ir.Constant(self.ints, [0xFFFF0000] * self.lanes))
        lower = builder.shl(loaded, ir.Constant(self.ints, [16] * self.lanes))
        return [builder.bitcast(lower, self.floats), builder.bitcast(upper, self.floats)]


class DotOfBfloat16(Float32):
    """One instruction of AVX512_BF16 for both multiply-adds. llvmlite lacks the type of LLVM's intrinsic for it."""

    word = _int
    instructions = "AVX512_BF16"

    def add(self, builder, weights, inputs, total):
        kind = ir.FunctionType(self.floats, [self.ints, self.ints, self.floats])
        return builder.asm(kind, "vdpbf16ps $2, $1, $0", "=v,v,v,0", [*weights, *inputs, total], False)


class Int8(Float32):
    """Four int8 per word, in any vector code.

    Two numbers precede the words of each column: its scale, float32, and the int32 with which its sum begins.
    """

    word = _int
    instructions = "no int8 instructions"
    header = 2
    max_rows = {16: 4, 8: 4, 4: 4}
    #: Added to inputs, which are then unsigned; the sums begin with its products, negated.
    offset = 0

    def __init__(self, lanes: int):
        super().__init__(lanes)
        self.sums = self.ints

    def add(self, builder, weights, inputs, total):
        def numbers(words, index):
            left = builder.shl(words, ir.Constant(self.ints, [24 - 8 * index] * self.lanes))
            return builder.ashr(left, ir.Constant(self.ints, [24] * self.lanes))

        for index in range(4):
            total = builder.add(total, builder.mul(numbers(weights[0], index), numbers(inputs[0], index)))
        return total


class Int8Avx2(Int8):
    """Multiplies |input| by sign(input) * weight, so that the sum of two products, in int16, cannot overflow."""

    instructions = "AVX2"

    def _cast(self, builder, value, element):
        return builder.bitcast(value, ir.VectorType(element, 32 * self.lanes // element.width))

    def inputs(self, builder, loaded):
        signed = self._cast(builder, loaded, _byte)
        negative = builder.sub(ir.Constant(signed.type, [0] * signed.type.count), signed)
        is_negative = builder.icmp_signed("<", signed, ir.Constant(signed.type, [0] * signed.type.count))
        return [signed, builder.select(is_negative, negative, signed)]

    def add(self, builder, weights, inputs, total):
        signed, magnitude = inputs
        weight = self._cast(builder, weights[0], _byte)
        weight = call(builder, "llvm.x86.avx2.psign.b", weight.type, [weight, signed])
        shorts = ir.VectorType(_short, 2 * self.lanes)
        pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", shorts, [magnitude, weight])
        ones = ir.Constant(shorts, [1] * shorts.count)
        return builder.add(total, call(builder, "llvm.x86.avx2.pmadd.wd", self.ints, [pairs, ones]))


class Int8Vnni(Int8):
    """One instruction of AVX512_VNNI or AVX_VNNI, which multiplies unsigned by signed numbers."""

    instructions = "VNNI"
    max_rows = {16: 6, 8: 6}
    offset = 128

    def add(self, builder, weights, inputs, total):
        kind = ir.FunctionType(self.ints, [self.ints] * 3)
        prefix = "" if self.lanes == 16 else "{vex} "
        return builder.asm(kind, prefix + "vpdpbusd $2, $1, $0", "=x,x,x,0" if prefix else "=v,v,v,0",
                           [*inputs, *weights, total], False)  # fmt: skip


class Vectors:
    """The vectors of a CPU: their ``lanes`` (words) and the arithmetic by the type of words.

    ``tile`` is the number of vectors per row in a tile of several rows, and ``panel`` the number of columns of a panel.
    A tile of one row is as wide as a panel, so that enough chains run in parallel.
    """

    def __init__(self, features: set[str]):
        self.features = sorted(features)
        self.lanes = lanes = 16 if "avx512f" in features else 8 if "avx2" in features else 4
        self.tile = 2 if lanes == 8 else 4
        self.panel = 8 * lanes
        self.groups = 4 if lanes == 16 else 2  # of a sparse tile; see ``sparse``
        self.has_dot = "avx512bf16" in features
        vnni = "avx512vnni" in features if lanes == 16 else "avxvnni" in features
        int8 = Int8Vnni if vnni else Int8Avx2 if lanes == 8 else Int8
        pairs = DotOfBfloat16 if self.has_dot else PairsOfBfloat16
        self._arithmetic = {types.float32: Float32(lanes), types.uint32: pairs(lanes), types.int32: int8(lanes)}
        self.offset = int8.offset
        self.instructions = {"fp32": Float32.instructions, "bf16": pairs.instructions, "int8": int8.instructions}

    def arithmetic(self, kind: types.Type) -> Float32:
        """The arithmetic of words of a numba type."""
        return self._arithmetic[kind]


def _features() -> set[str]:
    """The features that numba compiles for: those of this CPU, or of the variable NUMBA_CPU_FEATURES."""
    chosen = numba.config.CPU_FEATURES
    if chosen is None:
        return {name for name, is_there in llvm.get_host_cpu_features().items() if is_there}
    return {name[1:] for name in chosen.split(",") if name.startswith("+")}


llvm.initialize_native_asmparser()  # for the instructions without an intrinsic
#: The vectors of this machine.
VECTORS = Vectors(_features())
