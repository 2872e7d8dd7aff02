"""The compiler and the cache of compiled effects."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from wavedil import errors
from wavedil.audio import LiveEffect
from wavedil.audio.effects import engines
from wavedil.audio.effects.compiled import library
from wavedil.audio.effects.compiled.program import Builder, Term, lower
from wavedil.audio.effects.engines import CompiledEngine, TorchEngine, make_engine
from wavedil.audio.models.nam import NAMLinear
from wavedil.core import DilatedConv


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
    monkeypatch.setattr(library, "FLAGS", ("-O1", "-shared"))


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, and no library in memory; returns the cache's folder and a function that loads a program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(errors, "_unusable", set())
    compiled = []
    build = library._compile
    monkeypatch.setattr(library, "_compile", lambda *args: compiled.append(1) or build(*args))

    def load() -> int:
        """Loads and tries the program; returns how often the compiler ran since the start of the test."""
        library._loaded.clear()
        torch.manual_seed(0)
        engine = CompiledEngine(NAMLinear(3), 1)
        assert engine.process(np.ones((1, 4), np.float32)).shape == (1, 4)
        return len(compiled)

    yield tmp_path / "cache" / "wavedil" / "effects", load
    library._loaded.clear()


def test_a_compiled_effect_is_cached_and_a_damaged_file_replaced(fresh):
    folder, load = fresh
    assert [load(), load()] == [1, 1]
    (path,) = folder.iterdir()
    content = path.read_bytes()
    path.unlink()  # this process uses it
    path.write_bytes(content[:-1000])
    assert [load(), load()] == [2, 2]
    path.rename(path.with_name(path.name[::-1]))  # of another program
    assert load() == 3


def test_a_folder_that_others_can_write_to_is_not_used(fresh, caplog, monkeypatch):
    folder, load = fresh
    load()
    folder.chmod(0o777)
    with caplog.at_level(logging.WARNING, "wavedil"):
        assert [load(), load()] == [2, 3]
    assert caplog.text.count("each process compiles again; set XDG_CACHE_HOME to a folder of yours") == 1
    assert "other users can write to" in caplog.text
    folder.chmod(0o700)
    folder.parent.chmod(0o707)
    assert load() == 4
    folder.parent.chmod(0o775)
    monkeypatch.setattr(library, "_is_private", lambda group: False)
    assert load() == 5
    monkeypatch.setattr(library, "_is_private", lambda group: True)
    assert load() == 5
    folder.parent.chmod(0o755)
    assert load() == 5


def test_without_a_cache_each_process_compiles(fresh, caplog):
    folder, load = fresh
    folder.parent.parent.mkdir()
    folder.parent.write_text("a file")
    with caplog.at_level(logging.WARNING, "wavedil"):
        assert [load(), load()] == [1, 2]
    assert len(caplog.records) == 1


def test_a_cache_can_be_filled_by_several_at_once_and_keeps_the_last_ones(fresh, monkeypatch):
    folder, load = fresh
    monkeypatch.setattr(library, "KEPT", 2)
    program, compiler = lower(NAMLinear(2)), library.find_compiler()
    with ThreadPoolExecutor(3) as pool:
        libraries = list(pool.map(lambda key: library._load(program, compiler, key), ["a", "a", "a"]))
    assert len({each.effect_state_size() for each in libraries}) == 1
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert load() <= 4 and load() == load()
    library._load(program, compiler, "b")
    assert len(list(folder.iterdir())) == 2 and not list(folder.glob("a-*")) and len(list(folder.glob("b-*"))) == 1


def test_the_key_of_the_cache_covers_the_entire_program_and_the_writer(monkeypatch):
    def key(rate=8000, dilation=3, gain=1.0, knob="gain", add=True, kernel=2):
        conv = torch.nn.init.constant_(DilatedConv(1, 1, 1, kernel, dilation=dilation, padding="causal").weight, gain)
        program = Builder()
        knobs = torch.ones(1, 1)
        program.product(
            [Term(0, conv.detach(), dilation)], torch.zeros(1), add=program.sound if add else None, knobs=knobs
        )
        return library._key(program.program(torch.nn.Identity(), rate, knobs={knob: (0.0, 1.0)}), ["/bin/sh"])

    changes = [{"rate": 4000}, {"dilation": 4}, {"gain": 1.0000001}, {"knob": "tone"}, {"add": False}, {"kernel": 3}]
    keys = [key(), *(key(**change) for change in changes)]
    assert keys[0] == key() and len(set(keys)) == len(keys)
    monkeypatch.setattr(library, "_writer", lambda: b"of another version")
    assert key() not in keys


def test_another_compiler_compiles_anew(fresh, tmp_path, monkeypatch):
    _, load = fresh
    assert load() == 1
    command = tmp_path / "my cc"
    command.write_text(f'#!/bin/sh\nexec {library.find_compiler()[0]} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("CC", f"'{command}' -g0")
    assert library.find_compiler() == [str(command), "-g0"]
    assert [load(), load()] == [2, 2]


def test_without_a_working_compiler_effects_run_in_torch(fresh, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(engines, "_given", set())
    model = NAMLinear(3)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'x.c: fatal error: no license' >&2; exit 1\n")
    broken.chmod(0o755)
    with caplog.at_level(logging.WARNING, "wavedil"):
        monkeypatch.setenv("CC", str(broken))
        assert isinstance(make_engine(model, 1), TorchEngine)
        monkeypatch.delenv("CC")
        monkeypatch.setattr(library.tempfile, "tempdir", str(tmp_path / "missing"))
        assert isinstance(make_engine(model, 1), TorchEngine)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(library, "find_spec", lambda name: None)
        effects = [LiveEffect(model) for _ in range(2)]
    assert [type(effect._engine) for effect in effects] == [TorchEngine, TorchEngine]
    first, second, third = caplog.messages
    assert first.endswith("broken failed: x.c: fatal error: no license")
    assert second.endswith("compiled code cannot be written or loaded: No such file or directory")
    assert third.startswith("this effect runs in PyTorch, which is slower: there is no C compiler: install one")
    monkeypatch.setattr(library, "find_spec", lambda name: True)
    assert library.find_compiler()[1:] == ["-m", "ziglang", "cc"]
    assert os.path.isabs(library.find_compiler()[0])
