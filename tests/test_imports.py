"""Imports go one way, and heavy libraries are imported only where they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wavedil

ROOT = Path(wavedil.__file__).parent
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"{{name}} is hidden", name=name)
sys.meta_path.insert(0, Hidden())
"""
HEAVY = {"lightning", "librosa", "torchaudio", "numba", "triton", "matplotlib", "soundfile", "soxr", "jsonargparse"}
HEAVY |= {"PIL", "timm", "torchvision", "scipy", "nibabel"}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_run_without_the_heavy_libraries():
    python(
        HIDE.format(hidden=HEAVY)
        + """
import torch, wavedil, wavedil.core
from wavedil.audio import WaveNet, generate, load, save
stack = wavedil.DilatedStack(ndim=1, channels=32, dilations="1..8 x2", kernel_size=2, causal=True)
x = torch.randn(2, 32, 200)
y = stack(x); y.sum().backward()
(step, state) = stack.step(x)
torch.testing.assert_close(step, y)
assert wavedil.audit_gridding([1, 2, 4]).holes == 0 and wavedil.receptive_field([1, 2, 4], kernel_size=2) == 8
model = WaveNet(16, 16, "1..4")
model.loss(torch.zeros(2, 100, dtype=torch.int64)).backward()
assert generate(model.eval(), 20).shape == (1, 1, 20)
from wavedil.vision import ContextModule, Conv1x1Head, Segmenter, SmallBackbone
model = Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), ContextModule(3), num_classes=3)
model(torch.rand(1, 3, 10, 9)).sum().backward()
from wavedil.vision import ContextModule, DenseCRF
assert ContextModule(3)(torch.randn(1, 3, 20, 21)).shape == (1, 3, 20, 21)
image, scores = torch.zeros(9, 8, 3, dtype=torch.uint8), torch.randn(2, 9, 8)
assert DenseCRF(iterations=2)(image, scores).shape == (2, 9, 8)
"""
    )


def test_the_package_imports_the_core_only():
    using = "import wavedil; wavedil.DilatedStack; print(*(set(sys.modules) - before))"
    loaded = python(f"import sys, torch; before = set(sys.modules); {using}")
    ours = {name for name in loaded.split() if name.startswith("wavedil")}
    assert "wavedil.core.stack" in ours
    assert not {name for name in ours if name.split(".")[1:2] not in ([], ["core"], ["ops"], ["errors"])}
    assert not {name.split(".")[0] for name in loaded.split()} & HEAVY


def test_help_imports_nothing_heavy_and_sampling_no_lightning(tmp_path):
    for words in ([], ["sample"], ["train"], ["evaluate"]):
        code = f"from wavedil.cli import build_parser; build_parser({words}).format_help()"
        seen = python(f"import sys; {code}; print(*sys.modules)").split()
        assert not {"torch", "numpy", "lightning"} & set(seen)
    code = f"""
import sys
from wavedil.audio import WaveNet, save
from wavedil.cli import main
save(WaveNet(8, 8, "1,2"), {str(tmp_path / "model")!r})
assert main(["sample", {str(tmp_path / "model")!r}, "--seconds", "0.001", "--out", {str(tmp_path)!r}]) == 0
from wavedil.vision import Conv1x1Head, Segmenter, SmallBackbone
from wavedil.vision.data.images import write_image
import numpy
folder = {str(tmp_path / "segmenter")!r}
save(Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), num_classes=3), folder)
write_image(folder + "/x.png", numpy.zeros((8, 8, 3), numpy.uint8))
assert main(["segment", folder, folder + "/x.png", "--out", folder + "/out"]) == 0
for model in (folder, {str(tmp_path / "model")!r}):
    assert main(["inspect", model]) == 0
unused = {{"lightning", "librosa", "torchaudio", "torchvision", "timm", "matplotlib", "sympy", "torch._dynamo"}}
assert not unused & set(sys.modules)
"""
    python(code)


def test_a_schedule_is_inspected_without_torch():
    code = "import sys; from wavedil.cli import main; assert main(['inspect', '1..512 x2']) == 0"
    python(f"{code}; assert not {{'torch', 'numba', 'scipy', 'matplotlib'}} & set(sys.modules)")


#: Modules of the package itself that audio and vision may import.
SHARED = {"arrays", "batches", "data_check", "skipped", "errors", "files", "losses", "outputs", "splits", "weights"}
SHARED |= {"extras", "figures", "matlab", "shards", "trusted", "writing"}


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("ops", {"ops", "errors"}),
        ("core", {"ops", "core", "errors"}),
        ("audio", {"ops", "core", "audio"} | SHARED),
        ("interop", {"core", "audio", "interop", "errors", "files", "outputs", "packaged", "weights", "writing"}),
        ("vision", {"ops", "core", "vision", "renames"} | SHARED),
        ("inspection", {"core", "inspection", "errors", "figures", "files", "writing"}),
    ],
)
def test_each_folder_imports_only_the_folders_below_it(folder, allowed):
    """Reads the source: imports inside functions count, too."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module] if node.module != "wavedil" else [f"wavedil.{a.name}" for a in node.names]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            for name in names:
                parts = name.split(".")
                assert parts[0] != "wavedil" or parts[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"
                assert parts[0] != "lightning", f"{path.relative_to(ROOT)} imports lightning"


def test_the_shell_imports_heavy_modules_inside_functions_only():
    allowed = {f"wavedil.{name}" for name in ("errors", "progress", "cli", "docstrings", "recipe_files")}
    for path in (ROOT / "cli").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                standard = name.partition(".")[0] in sys.stdlib_module_names
                assert standard or name in allowed or name.startswith("wavedil.cli."), f"{path.name} imports {name}"


def test_public_names():
    import wavedil.audio
    import wavedil.vision

    assert set(wavedil.__all__) >= {
        "DilatedConv", "DilatedStack", "GatedBlock", "audit_gridding", "doubling", "receptive_field", "register",
        "__version__",
    }  # fmt: skip
    assert set(wavedil.audio.__all__) >= {"WaveNet", "generate", "load", "save"}
    assert set(wavedil.vision.__all__) >= {"Segmenter", "ContextModule", "predict", "load", "save"}
    assert set(wavedil.vision.__all__) >= {"VGGFrontEnd", "ContextModule", "ASPP", "PyramidPooling", "DenseCRF"}
    for module in (wavedil, wavedil.core, wavedil.audio, wavedil.vision):
        assert all(hasattr(module, name) for name in module.__all__)
