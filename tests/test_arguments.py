"""Every class that a model folder may name: its arguments have types and ranges, and its objects can be looked at."""

import copy
import inspect
import json
import pickle
import random
import typing
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import wavedil
from wavedil import audio, vision
from wavedil.allocation import AllocationLimitError
from wavedil.audio import distributions
from wavedil.audio.conditioning import upsampling
from wavedil.audio.models import conv_tasnet, diffwave, layer_chain, nam, parallel_wavegan, tcn, vits
from wavedil.core.schema import Arguments
from wavedil.errors import Interrupted, WavedilError
from wavedil.registry import _REGISTERED, import_path
from wavedil.vision.dense.convert import DenseBackbone
from wavedil.vision.models import heads, timm_backbone
from wavedil.weights import FORMAT, load

ROOT = Path(wavedil.__file__).parent
for file in ROOT.rglob("*.py"):
    if "\n@register\nclass" in file.read_text(encoding="utf-8") and "ops" not in file.parts:
        import_module(".".join(file.relative_to(ROOT.parent).with_suffix("").parts))

MEL = {"sample_rate": 8000, "n_mels": 4, "n_fft": 64, "hop_length": 6}


def segmenter():
    return vision.Segmenter(
        vision.SmallBackbone(8, 4), vision.Conv1x1Head([3, 8], 3), vision.ContextModule(3, "kitti"), vision.CRFRNN(3),
        num_classes=3, classes=["a", "b", "c"], mask_values=[[0, 0, 0], [9, 9, 9], [7, 7, 7]], ignore_label="rest",
        auxiliary=vision.FCNHead(8, 3), auxiliary_level=-1,
    )  # fmt: skip


def wavenet():
    condition = upsampling.TransposedUpsampling(audio.LogMel(**MEL), (2, 3), channels=4)
    return audio.WaveNet(
        4, 4, "1,2", input_kernel_size=2, sample_rate=8000, condition=condition, speakers=["a", "b"],
        quantizer="linear", distribution=distributions.MixtureOfLogistics(2), skip_scale=[1.0, 0.5], weight_norm=True,
        num_codes=16,
    )  # fmt: skip


def dense_backbone():
    layers = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return vision.to_dense(nn.Sequential(*layers), 2)


#: One small object of each class.
EXAMPLES = {
    audio.WaveNet: wavenet,
    DenseBackbone: dense_backbone,
    audio.Effect: lambda: audio.Effect(
        4, 4, "1,2", knobs={"gain": [0, 1]}, time_constants=[0.1], charges=[0.5], settle=1, sample_rate=8000
    ),
    audio.LogMel: lambda: audio.LogMel(**MEL, fmax=3000.0),
    audio.SpectralGenerator: lambda: audio.SpectralGenerator(4, "1,2", mels=4, n_fft=16, hop_length=6),
    audio.Vocoder: lambda: audio.Vocoder(
        audio.LogMel(**MEL), audio.SpectralGenerator(4, "1", mels=4, n_fft=16, hop_length=6, sample_rate=8000)
    ),
    audio.NearestUpsampling: lambda: audio.NearestUpsampling(audio.LogMel(**MEL)),
    type(wavenet().conditioner.upsampling): lambda: upsampling.TransposedUpsampling(audio.LogMel(**MEL), [6]),
    upsampling.ImageUpsampling: lambda: upsampling.ImageUpsampling(upsampling.Features(4, 6), [2, 3]),
    upsampling.Features: lambda: upsampling.Features(4, 6),
    distributions.Categorical: distributions.Categorical,
    distributions.MixtureOfLogistics: distributions.MixtureOfLogistics,
    distributions.MixtureOfGaussians: lambda: distributions.MixtureOfGaussians(2),
    diffwave.DiffWave: lambda: diffwave.DiffWave(4, "1,2", mels=4, noise=[0.1, 0.2]),
    conv_tasnet.Separator: lambda: conv_tasnet.Separator(8, 2, 4, 6, "1,2"),
    vits.WN: lambda: vits.WN(4, 3, 2, 3, condition_channels=2, weight_norm=True),
    tcn.TCN: lambda: tcn.TCN(3, 2, [4, 5], "1,2", activation={"type": "LeakyReLU", "negative_slope": 0.1}),
    parallel_wavegan.ParallelWaveGANGenerator: lambda: parallel_wavegan.ParallelWaveGANGenerator(
        4, 4, "1,2", hidden_channels=4, mels=4, scales=[2, 3]
    ),
    layer_chain.LayerChain: lambda: layer_chain.LayerChain(
        [
            {"type": "conv", "channels": 2, "kernel_size": 3, "dilation": 2, "activation": "Tanh"},
            {"type": "gru", "channels": 3},
            {"type": "lstm", "channels": 1},
        ],
        residual=True,
        knobs={"param1": [0, 1]},
        metadata={"name": "x"},
    ),
    nam.LayerArray: lambda: nam.LayerArray(1, 4, 1, "1,2", [3, 2], gating=["none", "gated"], bottleneck=4),
    nam.NAM: lambda: nam.NAM(
        [nam.LayerArray(1, 4, 2, "1,2"), nam.LayerArray(4, 2, 3, "1")],
        head={"channels": 2, "kernel_sizes": [2, 3]},
        metadata={"name": "x"},
    ),  # fmt: skip
    nam.NAMContainer: lambda: nam.NAMContainer(
        [nam.NAM([nam.LayerArray(1, 2, 1, "1,2")]), nam.NAMLinear(4)], [0.5, 1.0], quality=0.3, metadata={"name": "x"}
    ),
    nam.NAMConvNet: lambda: nam.NAMConvNet(3, [1, 2], batchnorm=True, metadata={"name": "x"}),
    nam.NAMLSTM: lambda: nam.NAMLSTM(3, 2, metadata={"name": "x"}),
    nam.NAMLinear: lambda: nam.NAMLinear(5, bias=True, metadata={"name": "x"}),
    vision.Segmenter: segmenter,
    vision.VolumeSegmenter: lambda: vision.VolumeSegmenter(
        2, 2, 4, [[1, 2, 2], 1], classes=["a", "b"], mean=[1.0, 2.0], std=[0.5, 3.0]
    ),
    vision.NormalizeIntensity: vision.NormalizeIntensity,
    vision.ScaleIntensityRange: lambda: vision.ScaleIntensityRange(-160, 240),
    vision.PatchAugmentation: lambda: vision.PatchAugmentation(["width"], gamma=[0.7, 1.5]),
    vision.MultilabelSegmenter: lambda: vision.MultilabelSegmenter(
        vision.SmallBackbone(8, 4), vision.Conv1x1Head(8, 2), num_classes=2, classes=["a", "b"], ignore_label=9
    ),
    vision.Regressor: lambda: vision.Regressor(vision.PixelUnshuffle(4), vision.Conv1x1Head(48, 1)),
    vision.CRFRNN: lambda: vision.CRFRNN(3),
    vision.SmallBackbone: lambda: vision.SmallBackbone(8, 4),
    vision.PixelUnshuffle: vision.PixelUnshuffle,
    vision.ContextModule: lambda: vision.ContextModule(3, dilations="1,2", widths=[3, 4], in_channels=[2, 5]),
    vision.VGGFrontEnd: lambda: vision.VGGFrontEnd(2, widths=[2] * 5, hidden_channels=3),
    timm_backbone.TimmBackbone: lambda: timm_backbone.TimmBackbone("test_resnet", levels=[4]),
    vision.ASPP: lambda: vision.ASPP(4, 3, [1, 2], 4),
    heads.SummedASPP: lambda: heads.SummedASPP([3, 4], 3, [1, 2], 4),
    heads.Conv1x1Head: lambda: heads.Conv1x1Head(4, 3),
    heads.Degridding: lambda: heads.Degridding(4, 3, "2,1", 4),
    heads.FCNHead: lambda: heads.FCNHead([2, 8], 3),
    heads.FCN8s: lambda: heads.FCN8s([2, 3, 4], 3),
    heads.LargeFOV: lambda: heads.LargeFOV(4, 3, 2, 4),
    heads.NonLocal: lambda: heads.NonLocal(4, 3, 4),
    heads.ParallelDilations: lambda: heads.ParallelDilations(4, 3, "1,2", 4),
    heads.SummedDilations: lambda: heads.SummedDilations(4, 3, "1,2", 4),
    vision.PyramidPooling: lambda: vision.PyramidPooling(4, 3, [1, 2], 4),
    vision.COCO: lambda: vision.COCO(categories=["a"]),
    vision.Cityscapes: vision.Cityscapes,
    vision.ClassBalance: lambda: vision.ClassBalance(0.3, ["a"]),
    vision.MapillaryVistas: vision.MapillaryVistas,
    vision.OxfordPets: vision.OxfordPets,
    vision.PascalVOC: lambda: vision.PascalVOC(classes=["a", "b"]),
    vision.SBD: vision.SBD,
    vision.TorchvisionDataset: lambda: vision.TorchvisionDataset("SBDataset"),
    heads.UNet: lambda: heads.UNet([2, 3], 3, [4]),
}
OURS = {cls for path, cls in _REGISTERED.items() if path.startswith("wavedil.")}
by_class = pytest.mark.parametrize("cls", sorted(OURS, key=import_path), ids=lambda cls: cls.__name__)


def test_every_class_has_an_example():
    assert {cls.__name__ for cls in OURS ^ set(EXAMPLES)} == set()


def numbers_without_a_range(hint) -> list:
    if typing.get_origin(hint) is typing.Annotated:
        return [] if any(hasattr(rule, "allows") for rule in hint.__metadata__) else [hint]
    if hint in (int, float, list, tuple, dict):
        return [hint]
    return [found for option in typing.get_args(hint) for found in numbers_without_a_range(option)]


@by_class
def test_every_argument_has_a_type_and_every_number_a_range(cls):
    arguments = Arguments(cls.__init__)
    for name, parameter in list(arguments.signature.parameters.items())[1:]:
        assert parameter.annotation is not parameter.empty, f"{name} of {cls.__name__} has no type"
        assert not numbers_without_a_range(arguments.hints[name]), f"{name} of {cls.__name__} has no range"


OBJECTS = [
    *EXAMPLES.values(),
    lambda: wavedil.DilatedConv(1, 2, 2, 3),
    lambda: wavedil.DilatedConv(2, 2, 2, 2, dilation=[1, 2]),
    lambda: wavedil.DilatedStack(2, 4, "1,2", [3, 5]),
    lambda: wavedil.GatedBlock(1, 4),
    lambda: vision.DenseCRF(),
    lambda: distributions.MuLaw(256),
    lambda: distributions.Distribution(),
]


@pytest.mark.parametrize("make", OBJECTS)
def test_objects_can_be_looked_at_and_copied(make):
    """A property raises no error but AttributeError, which debuggers, notebooks and hasattr expect."""
    whole = make()
    for part in whole.modules() if isinstance(whole, nn.Module) else [whole]:
        for name in dir(part):
            getattr(part, name, None)
        repr(part)
    inspect.getmembers(copy.deepcopy(whole))


def test_public_names_can_be_looked_at():
    for package in (wavedil, wavedil.core, audio, vision):
        for name in package.__all__:
            inspect.getmembers(getattr(package, name))


@pytest.mark.parametrize("error", [WavedilError("a"), Interrupted("a", 130), AllocationLimitError("a")])
def test_errors_can_be_pickled(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and vars(again) == vars(error) and str(again) == "a"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ndim", [1, 2])
def test_centered_convolutions_are_traced(ndim):
    x = torch.randn(1, 2, *[9] * ndim)
    for module in (wavedil.DilatedConv(ndim, 2, 2, 3), wavedil.GatedBlock(ndim, 2, kernel_size=3)):
        expected, found = module(x), torch.jit.trace(module, x)(x)
        assert all(map(torch.equal, expected, found))


WRONG = [
    None,
    True,
    -1,
    0,
    3,
    2.5,
    65536,
    10**9,
    10**18,
    10**30,
    -1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "1 x10000",
]
WRONG += [
    [],
    [0],
    [1, 2],
    [[[1]]],
    [1] * 5000,
    {},
    {"a": [0, 1]},
    {"type": ["a"]},
    {"class": "os.system", "arguments": {}},
]
WRONG += [{"class": import_path(heads.Conv1x1Head), "arguments": {"in_channels": 2, "num_classes": 2}}]


def places(value, place=()):
    """The key of every value in a config."""
    for key in list(value) if isinstance(value, Mapping) else range(len(value)) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places(value[key], (*place, key))


def mutated(config, rng):
    config = json.loads(json.dumps(config))
    *parents, key = rng.choice(list(places(config)))
    parent = config
    for name in parents:
        parent = parent[name]
    kind = rng.random()
    if kind < 0.7:
        parent[key] = rng.choice(WRONG)
    elif kind < 0.8:
        del parent[key]
    elif kind < 0.9:
        for _ in range(rng.choice([1, 30, 800])):
            parent[key] = [parent[key]]
    elif isinstance(parent, dict):
        parent[rng.choice(["x", "channels", "self"])] = rng.choice(WRONG)
    else:
        parent *= 1000
    return config


@by_class
def test_a_config_with_errors_loads_or_is_refused_in_one_line(cls, tmp_path):
    """Mutated values, sizes, nesting, missing and extra keys of one small config per class."""
    rng, example = random.Random(cls.__name__), EXAMPLES[cls]()
    tensors = {key: value.clone() for key, value in getattr(example, "state_dict", dict)().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"format": FORMAT, "class": import_path(cls), "arguments": example.config}
    for _ in range(12):
        (tmp_path / "config.json").write_text(json.dumps(mutated(config, rng)))
        try:
            load(tmp_path)
        except WavedilError as error:
            assert "\n" not in str(error) and len(str(error)) < 1500
