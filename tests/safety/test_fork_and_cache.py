"""Sampling continues in a forked process, and without the cache of compiled code if that cannot be used."""

import importlib.util
import os
import shutil

import pytest
import torch

from wavedil import errors
from wavedil.audio import LogMel, NearestUpsampling, WaveNet
from wavedil.audio.generation.generate import stream


def run_forked(function, seconds: float = 30.0) -> str:
    """What ``function`` returns in a forked process, which is killed after some time."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        import signal

        signal.alarm(int(seconds))
        try:
            os.write(write, str(function()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("num", "engine", "torch_threads"), [(1, "numba", 1), (2, "numba", 2), (1, "torch", 2)])
def test_a_stream_continues_in_a_forked_process(num, engine, torch_threads):
    pytest.importorskip("numba")
    torch.manual_seed(0)
    mel = NearestUpsampling(LogMel(8000, n_mels=4, n_fft=64, hop_length=20))
    model = WaveNet(8, 8, "1,2", input_kernel_size=2, num_codes=16, sample_rate=8000, condition=mel)
    condition = torch.randn(num, 4, 100)
    threads = 2 if engine == "numba" else 1
    chunks = stream(model, condition=condition, num=num, seed=1, engine=engine, threads=threads, chunk=20)
    torch.set_num_threads(torch_threads)
    torch.zeros(10**6).sum()  # starts the threads of torch
    next(chunks)

    def following():
        return [next(chunks).tolist() for _ in range(2)]

    in_child = run_forked(following)
    assert in_child == str(following())
    assert run_forked(lambda: run_forked(following)) == str(following())  # a child of a child


# The cache

KERNELS = """
from wavedil.ops.vector import loop
@loop
def double(x):
    return 2 * x
@loop
def triple(x):
    return 3 * x
"""


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A function that imports two kernels again, as another process would, with a cache in ``tmp_path / "cache"``."""
    numba = pytest.importorskip("numba")
    pytest.importorskip("wavedil.ops.vector")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "kernels.py").write_text(KERNELS)

    def new_process():
        monkeypatch.setattr(errors, "_unusable", set())
        spec = importlib.util.spec_from_file_location("kernels", tmp_path / "kernels.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return new_process


def check(module, caplog, warnings):
    caplog.clear()
    assert (module.double(3), module.triple(2.5)) == (6, 7.5)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warnings
    assert all("cache of compiled code" in record.message and "\n" not in record.message for record in caplog.records)


def loaded(module):
    return sum(sum(kernel.stats.cache_hits.values()) for kernel in (module.double, module.triple))


def cached(tmp_path, ending):
    return sorted((tmp_path / "cache").rglob(f"*{ending}"))


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "flipped", "zeros", "folder"])
def test_a_damaged_cache_is_replaced_with_one_warning(tmp_path, kernels, caplog, ending, damage):
    check(kernels(), caplog, warnings=0)
    module = kernels()
    check(module, caplog, warnings=0)
    assert loaded(module) == 2
    files = cached(tmp_path, ending)
    assert len(files) == 2
    for path in files:
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        if damage == "flipped":
            content[middle] ^= 0xFF
        changed = {"empty": b"", "cut": content[:middle], "noise": b"\x93nonsense\n", "zeros": bytes(len(content))}
        path.unlink()
        if damage == "folder":
            path.mkdir()
        else:
            path.write_bytes(changed.get(damage, content))
    module = kernels()
    caplog.clear()
    assert (module.double(3), module.triple(2.5)) == (6, 7.5)
    assert len(caplog.records) <= 1 and loaded(module) == 0
    if damage != "folder":
        module = kernels()
        check(module, caplog, warnings=0)
        assert loaded(module) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
@pytest.mark.parametrize("method", ["_save_index", "_save_data", "_load_index"])
def test_a_full_or_forbidden_disk_is_reported_once(kernels, caplog, monkeypatch, method, error):
    from numba.core import caching

    def fail(*_):
        raise error

    monkeypatch.setattr(caching.IndexDataCacheFile, method, fail)
    check(kernels(), caplog, warnings=1)


@pytest.mark.parametrize("kind", ["removed", "file"])
def test_a_cache_folder_that_goes_away_is_reported_once(tmp_path, kernels, caplog, kind):
    module = kernels()
    shutil.rmtree(tmp_path / "cache")
    if kind == "file":
        (tmp_path / "cache").write_text("")
    check(module, caplog, warnings=1 if kind == "file" else 0)


def test_without_any_cache_folder_kernels_are_compiled(tmp_path, kernels, caplog, monkeypatch):
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    check(kernels(), caplog, warnings=0)
