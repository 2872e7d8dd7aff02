"""Odd arguments of functions for audio."""

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from wavedil import audio
from wavedil.audio.evaluation import evaluate
from wavedil.audio.speech_measures import log_spectral_distance

NAN, INF = math.nan, math.inf
MELS = torch.zeros(2, 4, 3)
Call = tuple[Any, dict[str, Any], dict[str, Iterable[Any]]]


@cache
def wavenet() -> audio.WaveNet:
    torch.manual_seed(0)
    return audio.WaveNet(4, 4, "1,2", input_kernel_size=2, num_codes=16, sample_rate=8000).eval()


@cache
def vocoder() -> audio.WaveNet:
    torch.manual_seed(0)
    mel = audio.NearestUpsampling(audio.LogMel(8000, n_mels=4, n_fft=64, hop_length=20))
    options = {"speakers": ["ann", "bob"], "speaker_channels": 3, "num_codes": 16}
    return audio.WaveNet(4, 4, "1,2", condition=mel, sample_rate=8000, **options).eval()


@cache
def effect() -> audio.Effect:
    torch.manual_seed(0)
    return audio.Effect(4, 4, "1,2", knobs={"gain": [0, 1]}, sample_rate=8000).eval()


def first_chunk(*args: Any, **options: Any) -> torch.Tensor:
    return next(audio.stream(*args, **options))


def process(block: Any, **options: Any) -> np.ndarray:
    return audio.LiveEffect(effect(), {"gain": 0.5}, **options).process(block)


#: Name -> function, valid arguments, and more odd values of some arguments.
CALLS: dict[str, Call] = {
    "generate": (
        audio.generate,
        {
            "model": wavenet, "samples": 6, "num": 2, "seed": 1, "first": 0, "temperature": 1.0, "top_k": 4,
            "top_p": 0.5, "guidance": 1.0, "speaker": None, "condition": None, "engine": "torch", "precision": "fp32",
            "threads": 1, "prime": torch.zeros(1, 1, 4), "progress": None,
        },
        {
            "samples": [10**12, [3, 0], [3, True], [10**12, 1], (2, 3), np.array([2, 3]), range(1, 3)],
            "num": [10**9, 10**15],
            "first": [2**63 - 1],
            "seed": [2**64 - 1, 2**64, np.uint64(2**63)],
            "temperature": [1e300, 5e-324],
            "prime": [
                torch.zeros(1, 1, 4, dtype=torch.int64), torch.full((1, 1, 4), 100.0), torch.zeros(3, 1, 4),
                torch.full((1, 1, 4), INF), np.zeros((1, 1, 4)), torch.zeros(2, 1, 0), np.zeros((1, 1, 4))[..., ::-1],
            ],
            "precision": ["bf16", "fp8"], "threads": [2], "engine": ["numba", "graphs", "triton"],
        },
    ),
    "generate by numba": (
        audio.generate,
        {"model": wavenet, "samples": 6, "num": 1, "seed": 1, "temperature": 1.0, "top_k": 4, "top_p": 0.5,
         "guidance": 1.0, "engine": "numba", "precision": "fp32", "threads": 1},
        {"precision": ["bf16"], "temperature": [1e300, 5e-324]},
    ),
    "generate with conditioning": (
        audio.generate,
        {"model": vocoder, "condition": MELS, "speaker": "ann", "guidance": 2.0, "num": 2, "engine": "torch"},
        {
            "samples": [61],
            "condition": [MELS[:1], MELS[:, :3], MELS.double(), MELS.numpy(), MELS * NAN, MELS[..., :0], MELS[0],
                          torch.zeros(2, 4, 3, dtype=torch.int32), MELS.clone().requires_grad_()],
            "speaker": [1, 2, -1, "carl", ["ann"], ["ann", "bob"], [0, 1], np.array([0, 1]), torch.tensor([0, 1]),
                        torch.zeros(2, 3), torch.zeros(2, 3) * NAN, np.zeros((2, 3)), ("ann", 1.5), np.str_("ann")],
        },
    ),
    "stream": (
        first_chunk,
        {"model": wavenet, "num": 2, "chunk": 5, "state": None, "engine": "torch"},
        {"chunk": [10**12], "model": [torch.nn.ReLU(), audio.WaveNet]},
    ),
    "LiveEffect": (
        audio.LiveEffect,
        {"model": effect, "knobs": {"gain": 0.5}, "channels": 1},
        {"knobs": [{}, {"gain": "x"}, {"gain": NAN}, {"gain": True}, {"gain": 2}, {"gain": np.float32(1)},
                   {"gain": 0.5, "odd": 1}, {1: 0.5}, {"gain": None}]},
    ),
    "LiveEffect.process": (
        process,
        {"block": np.zeros(8, np.float32), "channels": 1},
        {"block": [np.zeros(8, np.int16), np.zeros((2, 8), np.float32), np.full(3, 1e300), np.zeros((1, 0)),
                   torch.zeros(8), torch.zeros(8, requires_grad=True), [0.0, 0.5], np.zeros(8)[::-1]]},
    ),
    "evaluate": (
        evaluate,
        {"model": wavenet, "sounds": [torch.zeros(30)], "progress": None, "speakers": None, "precision": None,
         "features": None},
        {"sounds": [[torch.zeros(2, 30)], [torch.zeros(3).long()], [torch.full((3,), NAN)], [torch.zeros(0)],
                    torch.zeros(2, 30), [np.zeros(30, np.float32)], ["a"]],
         "precision": ["fp32", "bf16"], "speakers": [["ann"]], "features": [[torch.zeros(4, 2)]]},
    ),
    "evaluate with conditioning": (
        evaluate,
        {"model": vocoder, "sounds": [torch.zeros(80)] * 2, "speakers": ["ann", "bob"]},
        {"speakers": [["ann"], ["ann", "carl"], ["ann"] * 3, [0, 1]], "features": [[torch.zeros(4, 4)] * 2]},
    ),
    "log_spectral_distance": (
        log_spectral_distance, {"sound": torch.zeros(1024), "recording": torch.zeros(1024)},
        {"sound": [torch.zeros(1024).long(), np.zeros(1024)]},
    ),
    "mu_law_encode": (audio.mu_law_encode, {"sound": torch.zeros(4), "num_codes": 256}, {"sound": [np.zeros(3)]}),
    "mu_law_decode": (audio.mu_law_decode, {"code": torch.zeros(4).long(), "num_codes": 256},
                      {"code": [np.array([1, 2]), torch.tensor([256])]}),
    "write": (
        audio.write, {"path": "out.wav", "sound": np.zeros(8, np.float32), "sample_rate": 8000, "subtype": None},
        {"path": ["a\0.wav", "x" * 5000 + ".wav", "out.odd"], "sound": [torch.zeros(2, 8), [0.0]],
         "subtype": ["PCM_24"]},
    ),
    "read": (
        audio.read, {"path": "in.wav", "start": 0, "frames": 2, "sample_rate": 8000, "mono": True},
        {"path": ["a\0.wav", "x" * 5000, "."], "start": [2**62, 5], "frames": [2**62], "sample_rate": [16000, 2**40]},
    ),
    "process_file": (
        audio.process_file, {"model": effect, "source": "in.wav", "target": "out.wav", "knobs": {"gain": 0.5},
                             "resample": False, "subtype": None, "progress": None},
        {"source": ["a\0.wav"], "target": ["a\0.wav", "in.wav"]},
    ),
    "load": (audio.load, {"folder": "model", "device": "cpu", "expect": None},
             {"folder": ["a\0", "x" * 5000, "."], "device": ["cuda:99", "meta"], "expect": [audio.WaveNet]}),
    "save": (audio.save, {"model": wavenet, "folder": "model2"},
             {"folder": ["a\0", "x" * 5000, "in.wav", "in.wav/model"], "model": [torch.nn.ReLU(), audio.WaveNet]}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_valid_arguments_are_accepted(name, outcome):
    function, valid, _ = CALLS[name]
    assert outcome(function, valid) == ""


@pytest.mark.filterwarnings("ignore:.*outside:UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_odd_arguments_give_a_result_or_one_line(name, check_odd_arguments):
    check_odd_arguments(*CALLS[name])


SHARED = ("model", "samples", "num", "seed", "first", "temperature", "top_k", "top_p", "guidance", "prime", "threads")


@pytest.mark.parametrize("argument", SHARED)
def test_engines_refuse_the_same_arguments_in_the_same_words(argument, odd, outcome, monkeypatch):
    monkeypatch.setattr("wavedil.ops.memory.free_memory", lambda *_: 2**34)  # else it changes between the calls
    _, valid, more = CALLS["generate"]
    for value in [*odd.values(), *more.get(argument, ())]:
        if argument == "threads" and value is not None and not isinstance(value, str):
            continue  # engines have different numbers
        found = {outcome(audio.generate, valid | {"engine": name, argument: value}) for name in ("torch", "numba")}
        assert len(found) == 1, (value, found)
