"""Model folders of format 1, with the names of version 0.1, load as today's models."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from wavedil.audio import LogMel, NearestUpsampling, WaveNet, load, save
from wavedil.audio.models.diffwave import DiffWave
from wavedil.audio.models.parallel_wavegan import ParallelWaveGANGenerator

MEL = {"sample_rate": 8000, "n_mels": 5, "n_fft": 32, "hop_length": 12}


def wavenet() -> WaveNet:
    condition = NearestUpsampling(LogMel(**MEL))
    return WaveNet(8, 12, "1..4", sample_rate=8000, condition=condition, speakers=["ann", "bob"], input="scalar")


#: For each model: today's names of arguments and beginnings of tensors, and those of version 0.1.
MODELS = {
    "WaveNet": (
        wavenet,
        {"input_kernel_size": "front_kernel_size", "num_codes": "codes", "quantizer": "quantiser", "hop_length": "hop"},
        {
            "input_embedding.": "front.",
            "conditioner.upsampling.": "conditioner.local.",
            "conditioner.speaker_embedding.": "conditioner.voices.",
        },
    ),
    "DiffWave": (
        lambda: DiffWave(8, "1..4", mels=6),
        {},
        {"input_conv.": "front.", "upsampling.convs.": "upsampler.layers."},
    ),
    "ParallelWaveGANGenerator": (
        lambda: ParallelWaveGANGenerator(8, 8, "1..4", mels=6, hidden_channels=5, scales=(4, 3), weight_norm=True),
        {},
        {"input_conv.": "front.", "upsampling.": "upsampler."},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_of_format_1_loads(name, tmp_path, caplog):
    make, arguments, tensors = MODELS[name]
    model = make()
    folder = save(model, tmp_path / "model")

    def as_format_1(value):
        if isinstance(value, list):
            return [as_format_1(item) for item in value]
        if not isinstance(value, dict):
            return value
        value = {arguments.get(key, key): as_format_1(item) for key, item in value.items()}
        if "class" in value:
            value["model"] = value.pop("class").rpartition(".")[2]
        return value

    config = as_format_1(json.loads((folder / "config.json").read_text())) | {"format": 1}
    (folder / "config.json").write_text(json.dumps(config))
    renamed = {}
    for key, value in load_file(folder / "model.safetensors").items():
        prefix = next((prefix for prefix in tensors if key.startswith(prefix)), "")
        renamed[tensors.get(prefix, "") + key.removeprefix(prefix)] = value
    assert all(any(key.startswith(old) for key in renamed) for old in tensors.values())
    save_file(renamed, folder / "model.safetensors")
    with caplog.at_level(logging.WARNING, "wavedil"):
        again = load(folder)
    assert "has format 1" in caplog.text and again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
