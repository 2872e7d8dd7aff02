"""``wavedil sample``."""

import json

import numpy as np
import pytest
import torch

from wavedil.audio import LogMel, NearestUpsampling, WaveNet, save
from wavedil.audio.data import audio_files


def test_clips_are_written_and_depend_on_the_seed_and_their_number_only(run, tmp_path, wavenet):
    words = ["sample", wavenet, "--seconds", 0.05, "--seed", 4]
    result = json.loads(run(*words, "--num", 3, "--out", tmp_path / "a").out)
    assert result["engine"] == "numba" and result["precision"] == "fp32" and result["samples_per_second"] > 0
    assert result["real_time_factor"] == pytest.approx(result["samples_per_second"] / 8000, abs=1e-3)
    first = [audio_files.read(path) for path in result["files"]]
    assert [(sound.shape, rate) for sound, rate in first] == [((1, 400), 8000)] * 3
    again = json.loads(run(*words, "--num", 1, "--out", tmp_path / "b").out)
    assert (audio_files.read(again["files"][0])[0] == first[0][0]).all()


def test_a_recording_is_continued(run, tmp_path, wavenet, sounds):
    words = ["sample", wavenet, "--seconds", 0.01, "--out", tmp_path, "--top-k", 5]
    plain = audio_files.read(json.loads(run(*words).out)["files"][0])[0]
    primed = audio_files.read(json.loads(run(*words, "--prime", sounds / "0.flac").out)["files"][0])[0]
    assert primed.shape == plain.shape == (1, 80) and (primed != plain).any()


def test_clips_of_earlier_calls_are_kept(run, tmp_path, wavenet, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["sample", wavenet, "--seconds", 0.01, "--num", 2]
    names = [f"clip_00{index}_seed0{end}.wav" for end in ("", "-2", "-3") for index in (0, 1)]
    for _ in range(3):
        run(*words, "--out", "clips")
    assert sorted(path.name for path in (tmp_path / "clips").glob("*.wav")) == sorted(names)
    page = (tmp_path / "clips" / "index.html").read_text()
    assert page.count("<audio") == 6 and all(f'src="{name}"' in page for name in names)
    (tmp_path / "clips" / "index.html").write_text("mine")
    run(*words, "--seed", 5, "--temperature", 0.7, "--out", "clips")
    assert (tmp_path / "clips" / "clip_001_seed5_t0.7.wav").exists()
    assert (tmp_path / "clips" / "index.html").read_text() == "mine"


def test_one_clip_is_written_to_a_file_with_what_it_continues(run, tmp_path, wavenet, sounds):
    words = ["sample", wavenet, "--seconds", 0.01, "--prime", sounds / "0.flac"]
    assert json.loads(run(*words, "--out", tmp_path / "new" / "a.flac").out)["files"] == [f"{tmp_path}/new/a.flac"]
    clip = audio_files.read(tmp_path / "new" / "a.flac")[0]
    out = run(*words, "--out", tmp_path / "new" / "a.flac", "--with-prime")
    assert "a.flac exists and is replaced" in out.err
    both, prime = audio_files.read(tmp_path / "new" / "a.flac")[0], audio_files.read(sounds / "0.flac")[0]
    np.testing.assert_allclose(both, np.concatenate([prime, clip], 1), atol=1e-4)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.flac"]


def test_names_tell_the_speaker(run, tmp_path, vocoder):
    words = ["sample", vocoder / "model", "--condition", vocoder / "mels.npy", "--out", tmp_path]
    assert json.loads(run(*words, "--speaker", "bob").out)["files"] == [f"{tmp_path}/clip_000_bob_seed0.wav"]


def test_an_interrupted_generation_writes_the_samples_it_has(run, tmp_path, wavenet, monkeypatch):
    from wavedil.audio.generation import sample_files

    def interrupted(model, samples, **options):
        return generate(model, min(samples, 100), **options)

    generate = sample_files.generate
    monkeypatch.setattr(sample_files, "generate", interrupted)
    out = run("sample", wavenet, "--seconds", 0.05, "--out", tmp_path)
    assert "interrupted: the clips have 0.01 of 0.05 seconds" in out.err
    assert json.loads(out.out)["seconds_each"] == 100 / 8000


@pytest.fixture(scope="module")
def vocoder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vocoder")
    mel = NearestUpsampling(LogMel(8000, n_mels=4, n_fft=64, hop_length=20))
    save(WaveNet(8, 8, "1..8", sample_rate=8000, condition=mel, speakers=["ann", "bob"]), folder / "model")
    audio_files.write(folder / "high.wav", 0.1 * torch.randn(1, 1601), 16000)
    np.save(folder / "mels.npy", np.zeros((4, 3), np.float32))
    return folder


def test_conditions_are_sounds_or_arrays(run, tmp_path, vocoder):
    words = ["sample", vocoder / "model", "--out", tmp_path, "--condition"]
    result = json.loads(run(*words, vocoder / "high.wav", "--speaker", "bob").out)
    assert audio_files.read(result["files"][0])[0].shape == (1, 801)  # resampled to 8000 Hz
    assert result["engine"] == "numba"
    options = ["--speaker", "ann", "--seconds", 0.01, "--guidance", 1.5, "--num", 2]
    short = json.loads(run(*words, vocoder / "high.wav", *options).out)
    assert short["engine"] == "numba" and short["seconds_each"] == 0.01
    array = json.loads(run(*words, vocoder / "mels.npy", "--speaker", "ann").out)
    assert array["seconds_each"] == 60 / 8000


def test_conditions_are_checked(refused, tmp_path, vocoder):
    words = ["sample", vocoder / "model", "--out", tmp_path / "out", "--condition"]
    sound = [*words, vocoder / "high.wav"]
    assert "expected one of ann, bob" in refused(*sound, "--speaker", "eve")
    assert "needs a speaker" in refused(*sound)
    assert "ask for less" in refused(*sound, "--speaker", "ann", "--seconds", 1)
    assert "needs a condition" in refused(*words[:4], "--speaker", "ann", "--seconds", 0.01)
    np.savez(tmp_path / "mels.npz", a=np.zeros((4, 3)), b=np.zeros(3))
    (tmp_path / "mels.npz").replace(tmp_path / "several.npy")
    assert "expected a complete .npy file with one array" in refused(
        *words, tmp_path / "several.npy", "--speaker", "ann"
    )
    np.save(tmp_path / "mels.npy", np.full((4, 3), np.nan, np.float32))
    assert "has NaN or infinity" in refused(*words, tmp_path / "mels.npy", "--speaker", "ann")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seconds", "0"], "seconds is 0: expected more than 0"),
        (["--num", "0"], "num is 0"),
        (["--engine", "warp"], "expected one of auto"),
        (["--device", "abacus"], "abacus"),
        (["--prime", "nowhere.wav"], "nowhere.wav"),
        (["--out", "{sounds}/0.flac/new"], "--out {sounds}/0.flac/new: {sounds}/0.flac is not a writable directory"),
        (["--out", "x.mid"], "out x.mid: expected a folder, or a file that ends with one of .wav"),
        (["--out", "x.wav", "--num", "2"], "num is 2, but --out x.wav is one file"),
        (["--with-prime"], "--with-prime is set, but --prime is not"),
        (["--steps", "3"], "--steps is not an option of a WaveNet: expected one of --seconds"),
        (["--engine", "numbaa"], "did you mean numba?"),
    ],
)
def test_bad_options_are_refused(refused, tmp_path, monkeypatch, wavenet, sounds, words, message):
    monkeypatch.chdir(tmp_path)
    expected = message.format(sounds=sounds)
    assert expected in refused("sample", wavenet, *[word.format(sounds=sounds) for word in words])
    assert not list(tmp_path.iterdir())
