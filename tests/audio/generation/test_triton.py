"""The triton engine without a GPU: its cases in Triton's interpreter, the compiled kernel, and when auto takes it."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from wavedil.audio import WaveNet, save
from wavedil.audio.distributions.base import Sampling
from wavedil.audio.generation.engines import choose
from wavedil.audio.generation.engines import triton as engine
from wavedil.audio.generation.plan import GenerationPlan
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.cli import main
from wavedil.errors import WavedilError

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (torch for CPUs alone)")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SHARED = 227 * 1024  # bytes that a program may have on an H100


@needs_triton
@pytest.mark.parametrize("interpret", ["1", pytest.param("0", marks=needs_cuda)], ids=["interpreter", "cuda"])
def test_cases(interpret, run_cases):
    run_cases(Path(__file__).with_name("triton_cases.py"), interpret)


class Launches:
    """A mock kernel that records the arguments of its launch."""

    def __getitem__(self, grid):
        self.grid = grid
        return self

    def __call__(self, *args, **named):
        self.args, self.named = args, named


@needs_triton
@pytest.mark.parametrize(("precision", "most_stack"), [("bf16", 0), ("fp32", 64)])
def test_the_kernel_of_the_usual_model_fits_an_h100(precision, most_stack, monkeypatch, compile_for_h100):
    from wavedil.audio.generation.engines.triton_kernels import sample_steps

    launches = Launches()
    plan = (model := WaveNet()).plan()
    layers = tuple(replace(layer, condition=torch.zeros(128, 80)) for layer in plan.layers)
    plan = replace(plan, layers=layers, condition_channels=80)
    monkeypatch.setattr(engine, "_kernels", lambda device: SimpleNamespace(sample_steps=launches))
    session = engine.TritonSession(plan, model.start(40), Sampling(0.9, 50, 0.9), precision=precision)
    session.sample(Uniforms(0, 40).draw(5), torch.zeros(40, 80, 5))
    assert launches.grid == (3,)
    kernel, stack = compile_for_h100(sample_steps, launches.args, launches.named)
    assert kernel.metadata.shared <= SHARED
    assert kernel.asm["ptx"].count("cp.async") > 20  # weights are loaded while others are multiplied
    assert ("mma.sync" in kernel.asm["ptx"]) == (precision == "bf16")
    assert "ld.global.nc" not in kernel.asm["ptx"]  # such loads may miss earlier writes of the program
    assert stack <= most_stack


class OnCuda(GenerationPlan):
    device = torch.device("cuda")


@pytest.fixture
def h100(monkeypatch):
    """Mocks the queries of a CUDA device, triton and a compiler."""
    properties = SimpleNamespace(shared_memory_per_block_optin=SHARED)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(engine, "find_spec", lambda name: object())
    monkeypatch.setattr(engine, "_compiler", lambda: "cc")


def on_cuda(plan: GenerationPlan) -> OnCuda:
    return OnCuda(**vars(plan))


def test_auto_takes_triton_on_cuda_if_it_can_run_the_plan_else_graphs(h100, monkeypatch):
    plan = WaveNet(8, 8, "1,2").plan()
    assert choose("auto", plan, 4) == "numba"
    assert choose("auto", on_cuda(plan), 4) == "triton"
    deeper = on_cuda(replace(plan, head=plan.head * 2))
    assert choose("auto", deeper, 4) == "graphs"
    assert choose("auto", on_cuda(plan), 4, precision="bf16") == "triton"
    with pytest.raises(WavedilError, match="precision is 'bf16': engines that can run this model have fp32"):
        choose("auto", deeper, 4, precision="bf16")
    assert choose("auto", on_cuda(WaveNet(4096, 8, "1", hidden_channels=8).plan()), 4) == "graphs"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose("auto", on_cuda(plan), 4) == "graphs"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for name in ("_compiler", "find_spec"):
        with monkeypatch.context() as without:
            without.setattr(engine, name, lambda *_: None)
            assert choose("auto", on_cuda(plan), 4) == "graphs"


def test_messages_name_what_is_missing(h100, monkeypatch):
    with pytest.raises(WavedilError, match="the model is on cpu: the triton engine needs a CUDA device"):
        engine.TritonSession(WaveNet(8, 8, "1,2").plan(), WaveNet(8, 8, "1,2").start(1))
    monkeypatch.setattr(engine, "_compiler", lambda: None)
    with pytest.raises(WavedilError, match="needs a C compiler"):
        engine._kernels(torch.device("cuda"))
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(WavedilError, match="pip install triton"):
        engine._kernels(torch.device("cuda"))


@pytest.mark.parametrize("name", ["triton", "graphs"])
def test_without_a_gpu_the_shell_says_so_in_one_line(name, tmp_path, capsys):
    save(WaveNet(8, 8, "1,2"), tmp_path / "model")
    command = ["sample", str(tmp_path / "model"), "--engine", name, "--seconds", "0.01", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "the model is on cpu" in message and "needs a CUDA device" in message
    assert not (tmp_path / "out").exists()
