"""``wavedil evaluate``: the options of each kind of model, and the figures of a WaveNet."""

import json

import pytest
import torch

from wavedil.audio import Effect, LogMel, NearestUpsampling, WaveNet, save
from wavedil.audio.data import audio_files
from wavedil.audio.models.tcn import TCN
from wavedil.audio.models.vits import WN
from wavedil.cli import main
from wavedil.vision import Conv1x1Head, Regressor, Segmenter, SmallBackbone


def test_bits_per_sample(run, wavenet, sounds):
    result = json.loads(run("evaluate", wavenet, sounds, "--json").out)
    assert result["count"] == 1770 and 0 < result["bits_per_sample"] < 20 and "8000 Hz" in result["definition"]
    held = json.loads(run("evaluate", wavenet, sounds, "--json", "--held-out").out)
    alone = json.loads(run("evaluate", wavenet, sounds / "0.flac", "--json").out)
    assert held == alone and held["count"] == 900
    assert held == json.loads(run("evaluate", "--validation", "^0", wavenet, sounds, "--json").out)
    assert "bits per sample over 900 samples" in run("evaluate", wavenet, sounds / "0.flac").out


def test_sound_is_normalized_as_in_the_recipe(run, refused, tmp_path, wavenet, sounds):
    sound, rate = audio_files.read(sounds / "0.flac")
    loud = sound * (0.9 / abs(sound).max())
    audio_files.write(tmp_path / "quiet.wav", 0.25 * loud, rate, subtype="FLOAT")
    audio_files.write(tmp_path / "loud.wav", loud, rate, subtype="FLOAT")
    quiet, same, expected = (
        json.loads(run("evaluate", wavenet, tmp_path / name, "--json", *options).out)["bits_per_sample"]
        for name, options in [("quiet.wav", ()), ("quiet.wav", ("--normalize", "peak")), ("loud.wav", ())]
    )
    assert same == pytest.approx(expected, abs=1e-6) and abs(quiet - expected) > 1e-3
    assert "expected 'peak', 'rms', or leave it out" in refused("evaluate", wavenet, sounds, "--normalize", "loud")


def test_speakers_and_resynthesis(run, refused, tmp_path, sounds):
    torch.manual_seed(0)
    mel = NearestUpsampling(LogMel(8000, n_mels=4, n_fft=64, hop_length=20))
    model = save(WaveNet(8, 8, "1..8", sample_rate=8000, condition=mel, speakers=["ann", "bob"]), tmp_path / "model")
    (tmp_path / "who.csv").write_text("file,speaker\n" + "".join(f"{i}.flac,ann\n" for i in range(3)))
    result = json.loads(run("evaluate", model, sounds, "--json", "--speakers", tmp_path / "who.csv").out)
    assert result["count"] == 1770 and "its speaker" in result["definition"]
    assert "speakers is not set" in refused("evaluate", model, sounds)
    audio_files.write(tmp_path / "ann.wav", 0.1 * torch.randn(1, 1200), 8000)
    words = ["evaluate", model, tmp_path / "ann.wav", "--speakers", "^(...)", "--resynthesize", 1]
    first, second = (json.loads(run(*words, "--temperature", t, "--guidance", 2, "--json").out) for t in (1, 0.5))
    assert first["distance_db"] != second["distance_db"] and first["griffin_lim_db"] == second["griffin_lim_db"]
    assert "log spectral distance (dB)" in run(*words).out
    assert "resynthesize is 0" in refused(*words[:-1], 0)
    assert "leave one of them out" in refused(*words, "--precision", "bf16")


def test_temperature_needs_resynthesize(refused, wavenet, sounds):
    assert "temperature is for generated clips" in refused("evaluate", wavenet, sounds, "--temperature", 0)
    assert "guidance is for generated clips" in refused("evaluate", wavenet, sounds, "--guidance", 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    save(Effect(4, 4, "1"), folder / "effect")
    save(TCN(88, 88, 4, "1"), folder / "tcn")
    save(Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 3), num_classes=3), folder / "segmenter")
    save(Regressor(SmallBackbone(8, 4), Conv1x1Head(8, 1)), folder / "regressor")
    save(WN(4, 3, 1, 1), folder / "wn")
    return folder


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("effect", "--crf", "an Effect: expected one of --held-out, --validation, --resample"),
        ("effect", "--exclude=x", "--exclude is not an option of an Effect"),
        ("tcn", "--validation", "--validation is not an option of a TCN: expected one of --held-out"),
        ("segmenter", "--speakers", "--speakers is not an option of a Segmenter: expected one of --held-out"),
        ("regressor", "--crf", "crf and crf_preset refine class scores, which a Regressor does not have"),
        ("regressor", "--confusion=c.png", "confusion is 'c.png': a Regressor has no classes"),
        ("wn", "--crf", "holds a WN, which has no evaluation"),
        ("nothing", "--crf", "nothing does not exist"),
        ("segmenter", "--resynthesise", "--resynthesise is now called --resynthesize"),
        ("segmenter", "--scale", "--scale is not an option"),  # no abbreviations
    ],
)
def test_options_of_other_models_are_refused_with_those_of_the_model(refused, folders, name, option, message):
    assert message in refused("evaluate", folders / name, "data", option)
    assert message in refused("evaluate", option, folders / name, "data")


def test_models_without_evaluation_are_refused(refused, folders):
    assert "holds a WN, which has no evaluation" in refused("evaluate", folders / "wn", "data")


def test_help_shows_the_options_of_the_model(capsys, folders):
    for words, shown, hidden in (
        (["evaluate", "--help"], "wavedil evaluate MODEL --help", "--crf"),
        (["evaluate", folders / "segmenter", "--help"], "refine with a dense CRF", "--resample"),
        (["evaluate", folders / "effect", "--help"], "resample recordings to the model's sample rate", "--crf"),
    ):
        with pytest.raises(SystemExit, match="0"):
            main([str(word) for word in words])
        text = " ".join(capsys.readouterr().out.split())
        assert shown in text and hidden not in text


def test_piano_keys_are_checked(refused, tmp_path):
    save(TCN(1, 2, 4, "1"), tmp_path / "tcn")
    assert "in_channels and out_channels are (1, 2): expected 88" in refused("evaluate", tmp_path / "tcn", "rolls.mat")
