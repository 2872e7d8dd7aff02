"""Checks of this machine: versions, devices, caches, extras, and the results of the fast paths."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wavedil.errors import first_line
from wavedil.extras import EXTRAS, install, install_extra

OK, NOTE, WRONG = "ok", "note", "wrong"
_PACKAGES = ("torch", "numpy", "numba", "soundfile", "soxr", "safetensors", "tqdm")
_TOLERANCE = 1e-4  # of float32 results of size 1


@dataclass(frozen=True)
class Finding:
    """The result of one check: ``state`` is ``"ok"``, ``"note"`` (something is missing that is not needed) or
    ``"wrong"``."""

    name: str
    state: str
    text: str


@dataclass(frozen=True)
class Examination:
    """The results of all checks."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return all(each.state != WRONG for each in self.findings)

    def json(self) -> dict[str, Any]:
        return {"ok": self.is_well, "findings": [asdict(each) for each in self.findings]}

    def __str__(self) -> str:
        width = max(len(each.name) for each in self.findings)
        lines = [f"{each.state:5}  {each.name:{width}}  {each.text}" for each in self.findings]
        wrong = sum(each.state == WRONG for each in self.findings)
        return "\n".join([*lines, "", f"{wrong} of {len(lines)} checks failed" if wrong else "all checks passed"])


def examine(progress: Callable[[int, int], None] | None = None) -> Examination:
    """Runs all checks. The error of a check is its result; the others still run.

    Args:
        progress: called with the numbers of finished and of all checks.
    """
    checks = [_versions, _devices, _compilers, _caches, _extras, _torchaudio, *_COMPARISONS]
    findings: list[Finding] = []
    for index, check in enumerate(checks):
        try:
            findings += check()
        except Exception as error:  # whatever is broken here must not end the examination
            name = check.__name__.strip("_").replace("_", " ")
            findings.append(Finding(name, WRONG, f"{type(error).__name__}: {first_line(error)}"))
        if progress is not None:
            progress(index + 1, len(checks))
    return Examination(findings)


def _versions() -> Iterator[Finding]:
    import wavedil

    yield Finding("python", OK, f"{platform.python_version()} on {platform.platform()}")
    yield Finding("wavedil", OK, f"{wavedil.__version__} in {Path(wavedil.__file__).parent}")
    for name in _PACKAGES:
        try:
            import_module(name)
        except Exception as error:  # each library has its own
            yield Finding(name, WRONG, f"cannot be imported: {first_line(error)}; {install(name)}")
        else:
            yield Finding(name, OK, _version(name))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("cpu", OK, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch")
    if not torch.cuda.is_available():
        yield Finding("gpu", NOTE, "none that torch can use: everything runs on the CPU")
    for index in range(torch.cuda.device_count()):
        gib = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield Finding(f"cuda:{index}", OK, f"{torch.cuda.get_device_name(index)}, {gib:.0f} GiB")


def _compilers() -> Iterator[Finding]:
    names = [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++", "cl") if name]
    found = next((path for name in names if (path := shutil.which(name))), None)
    text = found or "none found: --model.compile true needs one; all else works without"
    yield Finding("C++ compiler", OK if found else NOTE, text)
    from wavedil.audio.effects.compiled.library import REMEDY, find_compiler

    command = find_compiler()
    text = " ".join(command) if command else f"none found: effects run in PyTorch, which is slower; {REMEDY}"
    yield Finding("C compiler", OK if command else NOTE, text)
    if find_spec("triton") is None:
        yield Finding("triton", NOTE, "not installed: on a GPU, kernels of torch are used")


def _caches() -> Iterator[Finding]:
    import wavedil
    from wavedil.audio.effects.compiled.library import cache_place

    numba = os.environ.get("NUMBA_CACHE_DIR") or str(Path(wavedil.__file__).parent)
    inductor = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
    for name, folder, option in (
        ("numba cache", numba, "NUMBA_CACHE_DIR"),
        ("effects cache", str(cache_place()), "XDG_CACHE_HOME"),
        ("torch cache", inductor, "TORCHINDUCTOR_CACHE_DIR"),
    ):
        place = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
        writable = place.is_dir() and os.access(place, os.W_OK)
        remedy = f"is not writable, so each process compiles anew: set {option} to a writable folder"
        yield Finding(name, OK if writable else NOTE, folder if writable else f"{folder} {remedy}")


def _extras() -> Iterator[Finding]:
    for extra, (purpose, packages) in EXTRAS.items():
        missing = [name for name in packages if find_spec(name) is None]
        text = f"without {', '.join(missing)}: {install_extra(extra)}" if missing else "installed"
        yield Finding(f"extra {extra}", NOTE if missing else OK, f"{text} ({purpose})")


def _torchaudio() -> Iterator[Finding]:
    if find_spec("torchaudio") is None:
        return
    versions = f"torchaudio {_version('torchaudio')} with torch {_version('torch')}"
    try:
        import_module("torchaudio")
    except Exception as error:  # RuntimeError or OSError, depending on the builds
        reason = f"{versions} cannot be imported ({first_line(error)[:100]})"
        yield Finding(
            "torchaudio", WRONG, f"{reason}: install both from one index, torch>=2.11,<2.15 and torchaudio>=2.11,<2.12"
        )
    else:
        yield Finding("torchaudio", OK, versions)


def _operations() -> Iterator[Finding]:
    """Outputs and gradients of the fused operations beside plain torch, on each device."""
    import torch

    from wavedil.ops import cross_entropy, dilated_conv, gate, gated_residual, skip_sum

    torch.manual_seed(0)
    x, w, square = torch.randn(2, 16, 101), torch.randn(32, 16, 2) / 6, torch.randn(16, 16, 1) / 4
    layer = {"padding": [(4, 0)], "dilation": (4,), "order": "tanh_first"}
    cases: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {
        "dilated_conv": (
            dilated_conv,
            [x, w, None],
            {"stride": (1,), "padding": [(0, 0)], "dilation": (4,), "groups": 1},
        ),
        "gate": (gate, [torch.randn(2, 32, 101)], {}),
        "gated_residual": (gated_residual, [x, w, torch.randn(32), square, torch.randn(16)], layer),
        "skip_sum": (skip_sum, [[x, x + 1], torch.randn(16, 32, 1) / 6, torch.randn(16)], {}),
        "cross_entropy": (cross_entropy, [torch.randn(64, 256), torch.arange(64)], {}),
    }
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for name, (module, arguments, options) in cases.items():
            fast, plain = (_run(function, arguments, options, device) for function in _pair(module, name))
            error = max(float((a - b).abs().max()) for a, b in zip(fast, plain, strict=True))
            limit = max(1.0, *(float(each.abs().max()) for each in plain)) * (_TOLERANCE if device == "cpu" else 1e-2)
            state = OK if error <= limit else WRONG
            yield Finding(f"{name} on {device}", state, f"differs from plain torch by {error:.1e} (limit {limit:.0e})")


def _pair(module: Any, name: str) -> tuple[Callable, Callable]:
    """The operation and its reference implementation; that of a convolution takes a padded input."""
    plain = module.reference
    if name == "dilated_conv":
        return module.dilated_conv, lambda *args, padding, **options: plain(*args, **options)
    return getattr(module, name), plain


def _run(function: Callable, arguments: list[Any], options: dict[str, Any], device: str) -> list[Any]:
    """Outputs and gradients of a function."""
    import torch

    def prepare(value: Any) -> Any:
        if isinstance(value, list):
            return [prepare(each) for each in value]
        if value is None:
            return None
        value = value.detach().to(device)
        return value.requires_grad_() if value.is_floating_point() else value

    inputs = prepare(arguments)
    outputs = function(*inputs, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    flat = [each for value in inputs for each in (value if isinstance(value, list) else [value])]
    flat = [each for each in flat if each is not None and each.requires_grad]
    gradients = torch.autograd.grad([output.sum() for output in outputs], flat)
    return [each.detach().double().cpu() for each in (*outputs, *gradients)]


def _engines() -> Iterator[Finding]:
    """Compares the codes of each engine with those of the reference engine, torch."""
    import torch

    from wavedil.audio.generation.engines import ENGINES, session_class
    from wavedil.audio.generation.generate import generate
    from wavedil.audio.models.wavenet import WaveNet

    torch.manual_seed(0)
    model, samples = WaveNet(16, 16, "1..32", num_codes=64).eval(), 400
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        model = model.to(device)
        expected = generate(model, samples, num=2, seed=1, engine="torch").cpu()
        for name in ENGINES:
            reason = session_class(name).obstacle(model.plan(), 2)
            if name == "torch" or reason is not None:
                continue
            codes = generate(model, samples, num=2, seed=1, engine=name).cpu()
            equal = float((codes == expected).float().mean())
            state = OK if equal > 0.99 else WRONG  # a tie may be decided otherwise, and later codes follow it
            yield Finding(f"engine {name} on {device}", state, f"{equal:.0%} of {2 * samples} codes as engine torch")


def _precisions() -> Iterator[Finding]:
    """Compares each precision of the numba engine with its definition in torch."""
    if find_spec("numba") is None:
        return
    from wavedil.audio.distributions import Categorical, MuLaw
    from wavedil.audio.generation.engines.cpu import NumbaSession
    from wavedil.audio.generation.engines.cpu.agreement import measure_agreement
    from wavedil.audio.generation.engines.cpu.arithmetic import VECTORS

    distribution = Categorical().set_quantizer(MuLaw(64))
    for precision in NumbaSession.precisions:
        for batch in (1, 7):
            agreement = measure_agreement(distribution, precision, batch)
            text = f"{agreement} ({VECTORS.instructions[precision]}, {VECTORS.lanes} lanes)"
            name = f"numba {precision}, {batch} stream{'s' * (batch > 1)}"
            yield Finding(name, OK if agreement.is_good else WRONG, text)


def _effects() -> Iterator[Finding]:
    """An effect as compiled C beside its model."""
    import torch

    from wavedil.audio.effects.engines import TorchEngine, make_engine
    from wavedil.audio.models.effect import Effect

    torch.manual_seed(0)
    model = Effect(8, 8, "1..8").eval()
    engines = TorchEngine(model, 1), make_engine(model, 1)
    if isinstance(engines[1], TorchEngine):
        return  # the check of compilers says why
    x = torch.randn(1, 500).numpy()
    expected, result = (engine.process(x) for engine in engines)
    error = float(abs(result - expected).max())
    yield Finding("compiled effect on cpu", OK if error < _TOLERANCE else WRONG, f"differs by {error:.1g} from torch")


_COMPARISONS = (_operations, _engines, _precisions, _effects)
