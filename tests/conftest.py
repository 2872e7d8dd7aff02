import os
import re
import subprocess
import sys
from pathlib import Path

# Where Python is told to keep no bytecode, each of the processes that tests start would compile all of torch again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# Tests with random examples have no time limits, which a busy machine exceeds.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Also for fixtures of modules and sessions, which are set up before the fixture below: rounding depends on the number.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sets one thread again: tensors are small, and a second thread only waits for its turn on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def run_cases():
    """Runs a file of tests of Triton kernels in a separate process: Triton decides at import whether it interprets."""

    def run(file: Path, interpret: str) -> None:
        # One worker, since more would not be faster.
        command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", str(file)]
        environment = {**os.environ, "TRITON_INTERPRET": interpret}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

    return run


@pytest.fixture
def compile_for_h100(monkeypatch, tmp_path):
    """Compiles a Triton kernel for the arguments of a launch; returns it and the bytes that a thread spills."""

    def compile(kernel, arguments, constants):
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from triton.runtime.jit import mangle_type

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        constants = dict(constants)
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
        values = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
        assert set(values) == set(kernel.arg_names)
        # As a launch does: numbers that are 1 are constants, and multiples of 16 are known as such.
        varying = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
        constants = {
            name: value
            for name, value in values.items()
            if name.isupper() or value is None or (type(value) is int and value == 1 and name not in varying)
        }
        types = {name: "constexpr" if name in constants else mangle_type(values[name]) for name in kernel.arg_names}
        aligned = {
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(kernel.arg_names)
            if types[name][0] == "*" or (types[name][0] == "i" and values[name] % 16 == 0 and name not in varying)
        }
        source = ASTSource(kernel, types, constants, aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
        dump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        command = [str(dump), "--dump-resource-usage", str(tmp_path / "kernel.cubin")]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return compiled, int(re.search(r"STACK:(\d+)", usage)[1])

    return compile


def _repair_the_interpreter() -> None:
    """Corrects Triton's interpreter (3.6 to 3.8) for bfloat16, and makes it faster."""
    import numpy as np
    from triton.runtime import interpreter

    language, builder = interpreter.tl, interpreter.InterpreterBuilder
    dot, convert = builder.create_dot, interpreter._convert_float
    patched = set()

    def widened(operand):
        if operand.dtype != language.bfloat16:
            return operand
        return interpreter.TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), language.float32)

    def rounded(data, source, target, mode):
        if (source, target) != (language.float32, language.bfloat16):
            return convert(data, source, target, mode)
        return torch.tensor(data).bfloat16().view(torch.uint16).numpy()

    def call(function, *args, **named):
        if function.fn not in patched:
            patched.add(function.fn)
            interpreter._patch_lang(function.fn)
        return function.rewrite()(*args, **named)

    # It multiplies the bits of bfloat16 operands as integers, and rounds to bfloat16 by truncation.
    builder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
    interpreter._convert_float = rounded
    # It patches the language again at each call of a function inside a kernel, which takes most of its time.
    interpreter.InterpretedFunction.__call__ = call


if os.environ.get("TRITON_INTERPRET") == "1":
    _repair_the_interpreter()
