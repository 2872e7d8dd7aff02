"""Odd arguments of public functions: a correct result or a WavedilError of one line, never another exception.

Each function is called with valid arguments, of which one is replaced by an odd value.
"""

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import wavedil
from wavedil import audio, core, vision
from wavedil.audio.evaluation import evaluate
from wavedil.audio.speech_measures import log_spectral_distance
from wavedil.core import gridding
from wavedil.errors import WavedilError

NAN, INF, HUGE = math.nan, math.inf, 10**400
ODD = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "1.5": 1.5,
    "nan": NAN,
    "-inf": -INF,
    "2**70": 2**70,
    "10**400": HUGE,
    "text": "odd",
    "empty text": "",
    "bytes": b"odd",
    "complex": 1j,
    "empty list": [],
    "nested list": [[1, 2], [3]],
    "list of texts": ["a", "b"],
    "list of None": [None],
    "dict": {"odd": 1},
    "set": {1},
    "object": object(),
    "class": dict,
    "function": len,
    "int64 of numpy": np.int64(3),
    "bool of numpy": np.True_,
    "float32 of numpy": np.float32(0.5),
    "texts of numpy": np.array(["a"]),
    "objects of numpy": np.array([None, 1]),
    "array of NaN": np.full((1, 1, 4), np.nan),
    "complex tensor": torch.zeros(1, 1, 4, dtype=torch.complex64),
    "tensor without numbers": torch.empty(1, 1, 4, device="meta"),
    "sparse tensor": torch.zeros(4, 4).to_sparse(),
    "empty tensor": torch.zeros(0),
    "tensor of rank 5": torch.zeros(1, 1, 1, 1, 1),
}


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


@cache
def segmenter() -> vision.Segmenter:
    torch.manual_seed(0)
    backbone = vision.SmallBackbone(8, 4)
    return vision.Segmenter(backbone, vision.Conv1x1Head(backbone.channels, 3), num_classes=3).eval()


@cache
def classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, 2, 1)]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))


@cache
def convolution() -> core.DilatedConv:
    return core.DilatedConv(1, 2, 2, 3)


@cache
def dense() -> torch.nn.Module:
    return vision.to_dense(classifier(), 2)


@cache
def state() -> dict[str, torch.Tensor]:
    chunks = audio.stream(wavenet(), seed=1, num=2, chunk=5)
    next(chunks)
    return chunks.state()


def first_chunk(*args: Any, **options: Any) -> torch.Tensor:
    return next(audio.stream(*args, **options))


def process(block: Any, **options: Any) -> np.ndarray:
    return audio.LiveEffect(effect(), {"gain": 0.5}, **options).process(block)


def confusion(num_classes: Any, predictions: Any, labels: Any) -> torch.Tensor:
    matrix = vision.ConfusionMatrix(num_classes)
    matrix.update(predictions, labels)
    return matrix.iou


IMAGE = np.zeros((12, 16, 3), np.uint8)
SCORES = torch.randn(3, 12, 16)
MELS = torch.zeros(2, 4, 3)

#: Name -> function, valid arguments, and more odd values of some arguments.
CALLS: dict[str, tuple[Any, dict[str, Any], dict[str, Iterable[Any]]]] = {
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
    "doubling": (wavedil.doubling, {"maximum": 8, "repeats": 2}, {"repeats": [10**9], "maximum": [2**62]}),
    "sawtooth": (core.sawtooth, {"dilations": "1,2", "repeats": 2}, {"repeats": [10**9]}),
    "hybrid": (core.hybrid, {"layers": 3, "field": 17, "kernel_size": 3},
               {"layers": [10_001], "field": [2**40], "kernel_size": [2**30]}),
    "parse_schedule": (
        core.parse_schedule, {"schedule": "1..8"},
        {"schedule": ["1..512 x1000000000", [2**62], "1..2 x10000", "(" * 10**5, "1," * 10**5, "hybrid(999, 99999)",
                      "1..99999999999999999999", "sawtooth(sawtooth(1..9, 1000), 1000)", range(10**9 + 1), "x3", "٣"]},
    ),
    "format_schedule": (core.format_schedule, {"dilations": [1, 2]}, {"dilations": [range(1, 10_000)]}),
    "receptive_field": (
        wavedil.receptive_field, {"dilations": "1..8", "kernel_size": 2, "strides": 1, "ndim": 1},
        {"dilations": ["1..512 x1000000000", [2**62]], "kernel_size": [[2] * 4, [2] * 3, np.array([2] * 4), [HUGE] * 4],
         "strides": [[1] * 4, [2**62] * 4]},
    ),
    "audit_gridding": (
        wavedil.audit_gridding, {"dilations": "1..8", "kernel_size": 3, "ndim": 2},
        {"dilations": [[2**24] * 3, "1 x10000", [2**62]], "kernel_size": [(3, 5), (2**20, 3)]},
    ),
    "suggest_schedules": (gridding.suggest_schedules, {"dilations": [2, 4], "kernel_size": 3, "ndim": 1},
                          {"dilations": [[1000, 1000]]}),
    "measure_receptive_field": (
        wavedil.measure_receptive_field,
        {"module": convolution, "example": 2, "ndim": 1, "size": 16, "seeds": 1,
         "coverage": 0.95},
        {"module": [torch.nn.Linear(2, 2), torch.nn.Embedding(3, 2), torch.nn.Flatten(), torch.nn.ReLU],
         "example": [torch.zeros(1, 2, 16), torch.zeros(1, 2, 16).long(), 3, 10**9],
         "size": [10**12, (16,), (16, 16), 3],
         "seeds": [10**9], "ndim": [2, 4]},
    ),
    "predict": (
        vision.predict, {"model": segmenter, "image": IMAGE, "scaled": False, "tile": None, "scales": (1.0,),
                         "flip": False, "refine": None, "progress": None},
        {"image": [IMAGE.astype(float), IMAGE[..., 0], IMAGE[:0], IMAGE[::-1, ::-1], torch.zeros(3, 4, 4)],
         "tile": [8, 2**62], "scales": [[1.0, 0.5], [1e9], [1e-9], [0], [NAN], [True]], "model": [effect],
         "refine": [lambda image, scores: scores[0], lambda image, scores: None]},
    ),
    "DenseCRF": (
        lambda image, scores: vision.DenseCRF(1)(image, scores), {"image": IMAGE, "scores": SCORES},
        {"image": [IMAGE[::-1], IMAGE[:4], IMAGE.astype(float)], "scores": [SCORES * NAN, SCORES[:1], SCORES.numpy()]},
    ),
    "DenseCRF.terms": (
        lambda features, weight, compatibility: vision.DenseCRF(1)(
            IMAGE, SCORES, terms=[vision.Pairwise(features, weight, compatibility)]
        ),
        {"features": torch.zeros(2, 12, 16), "weight": 1.0, "compatibility": None},
        {"features": [torch.zeros(2, 192), torch.zeros(12, 16), torch.full((1, 12, 16), NAN)],
         "compatibility": [np.eye(2), "potts"]},
    ),
    "position_features": (
        vision.position_features, {"size": (3, 4), "deviation": 2.0}, {"deviation": [[1, 2], [1, 2, 3]]},
    ),
    "unary_from_labels": (
        vision.unary_from_labels, {"labels": np.zeros((3, 4), int), "num_labels": 2, "confidence": 0.5,
                                   "ignored": None},
        {"labels": [np.full((3, 4), 2), np.full((3, 4), -1)]},
    ),
    "unary_from_softmax": (
        vision.unary_from_softmax, {"probabilities": torch.full((2, 3, 4), 0.5), "scale": None},
        {"probabilities": [SCORES, torch.zeros(3).long(), torch.zeros(2, 0)]},
    ),
    "DenseCRF.preset": (vision.DenseCRF.preset, {"name": "densecrf"}, {}),
    "CRFRNN": (lambda image, scores: vision.CRFRNN(3)(image, scores), {"image": IMAGE, "scores": SCORES}, {}),
    "overlay": (
        vision.overlay,
        {"image": IMAGE, "labels": np.zeros((12, 16), np.uint8), "palette": [(1, 2, 3)], "opacity": 0.5},
        {"labels": [np.zeros((2, 2), np.uint8), np.full((12, 16), -1), np.full((12, 16), 300), np.zeros((12, 16))],
         "palette": [[(1, 2)], [(1, 2, 300)], [("a", 2, 3)]], "image": [IMAGE[..., 0], IMAGE.astype(float)]},
    ),
    "upsample": (
        vision.upsample, {"x": torch.zeros(1, 2, 3, 4), "size": (24, 32), "stride": 8, "align": "center"},
        {"size": [(24,), (2**40, 2**40), (24.5, 32), (-8, 8), (24, True)], "stride": [16], "align": ["corner"]},
    ),
    "ConfusionMatrix": (
        confusion, {"num_classes": 3, "predictions": torch.zeros(4).long(), "labels": torch.tensor([0, 1, 2, 255])},
        {"predictions": [torch.tensor([0, 1, 2, 3]), torch.tensor([-1, 0, 0, 0]), torch.zeros(4), torch.ones(3).int()],
         "labels": [torch.tensor([0, 1, 2, 3]), torch.tensor([-1, 0, 0, 0]), torch.zeros(4)], "num_classes": [10**9]},
    ),
    "to_dense": (
        vision.to_dense, {"classifier": classifier, "output_stride": 2, "levels": (), "until": None},
        {"classifier": [torch.nn.Linear(3, 2), torch.nn.Sequential(), torch.nn.Conv1d(3, 4, 3), torch.nn.LSTM(3, 3)],
         "output_stride": [3, 4, 8], "levels": [[1], [2], [1, 1], [0]], "until": ["0", "2"]},
    ),
    "check_dense": (
        lambda classifier, dense, size, seed: str(vision.check_dense(classifier, dense, size=size, seed=seed)),
        {"classifier": classifier, "dense": dense, "size": (16, 16), "seed": 0},
        {"dense": [torch.nn.Linear(3, 2), classifier], "size": [(16, 10**7), (16,), (0, 16), (1, 1), (17, 19)]},
    ),
    "read_image": (vision.read_image, {"path": "in.png"}, {"path": ["a\0", "x" * 5000, ".", "in.wav"]}),
}  # fmt: skip


def made(value: Any) -> Any:
    """The value of an argument: models are made when they are used."""
    return value() if isinstance(value, type(wavenet)) else value


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        audio.write("in.wav", np.zeros((1, 50), np.float32), 8000)
        audio.save(wavenet(), "model")
        Image.fromarray(IMAGE).save("in.png")
        yield


def outcome(function: Any, arguments: dict[str, Any]) -> str:
    """Result or error of a call; other exceptions are raised."""
    try:
        function(**arguments)
    except WavedilError as error:
        text = str(error)
        assert text and "\n" not in text, text
        return text
    return ""


@pytest.mark.parametrize("name", CALLS)
def test_valid_arguments_are_accepted(name):
    function, valid, _ = CALLS[name]
    assert outcome(function, {key: made(value) for key, value in valid.items()}) == ""


@pytest.mark.filterwarnings("ignore:.*outside:UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_odd_arguments_give_a_result_or_one_line(name):
    function, valid, more = CALLS[name]
    for argument in valid.keys() | more.keys():
        values = ODD | {str(index): value for index, value in enumerate(more.get(argument, ()))}
        for text, value in values.items():
            if argument in ("progress", "refine") and (value is len or value is dict):
                continue  # it is called, and its errors are the caller's
            arguments = {key: made(item) for key, item in valid.items()} | {argument: made(value)}
            try:
                outcome(function, arguments)
            except Exception as error:
                error.add_note(f"{name}: {argument} is {text}")
                raise


SHARED = ("model", "samples", "num", "seed", "first", "temperature", "top_k", "top_p", "guidance", "prime", "threads")


@pytest.mark.parametrize("argument", SHARED)
def test_engines_refuse_the_same_arguments_in_the_same_words(argument):
    _, valid, more = CALLS["generate"]
    valid = {key: made(value) for key, value in valid.items()}
    for value in [*ODD.values(), *more.get(argument, ())]:
        if argument == "threads" and value is not None and not isinstance(value, str):
            continue  # engines have different numbers
        found = {outcome(audio.generate, valid | {"engine": name, argument: value}) for name in ("torch", "numba")}
        assert len(found) == 1, (value, found)


def broken_states() -> dict[str, Any]:
    """The state of two streams with one entry missing, or in another form, or another model's."""
    made, states = state(), {}
    for key, value in made.items():
        states[f"{key} missing"] = {name: entry for name, entry in made.items() if name != key}
        changes = {
            "None": None, "list": value.tolist(), "array": value.numpy(), "short": value[:1],
            "long": torch.cat([value] * 2),
            "scalar": value.sum(), "NaN": value.double() * NAN, "complex": value + 0j, "negative": -1 - value.abs(),
            "large": value.abs() + 2.0**70, "meta": value.to("meta"), "sparse": value.float().to_sparse(),
            "half": value.half(), "double": value.double(), "int32": value.int(), "bool": value > 0, "text": "odd",
        }  # fmt: skip
        states |= {f"{key} {name}": made | {key: changed} for name, changed in changes.items()}
    other = audio.WaveNet(4, 4, "1,2,4", num_codes=16, sample_rate=8000).eval().start(2)
    return states | {"another model's": other, "key that is no text": made | {1: made["previous"]}}


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_broken_states_are_refused(engine):
    expected = audio.generate(wavenet(), 6, state=state(), engine=engine)
    for text, broken in broken_states().items():
        try:
            error = outcome(lambda state: first_chunk(wavenet(), state=state, engine=engine), {"state": broken})
        except Exception as problem:
            problem.add_note(f"state with {text}")
            raise
        accepted = not error
        if text.split()[-1] in ("missing", "None", "list", "array", "short", "long", "scalar", "NaN", "text"):
            assert not accepted, text
        if accepted and text.split()[-1] in ("int32", "double"):
            assert torch.equal(audio.generate(wavenet(), 6, state=broken, engine=engine), expected), text
