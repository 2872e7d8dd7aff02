"""Sound outside [-1, 1], and integers, wherever sound enters."""

import warnings

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, LiveEffect, WaveNet, generate, process_file
from wavedil.audio.conditioning.conditioner import read_features
from wavedil.audio.conditioning.features import LogMel
from wavedil.audio.conditioning.upsampling import NearestUpsampling
from wavedil.audio.data import audio_files
from wavedil.audio.data.check import check_recordings
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.levels import Levels, check_level
from wavedil.audio.data.recording_files import Recording
from wavedil.audio.data.recordings import read_recordings, split_recordings
from wavedil.audio.effects.evaluation import evaluate_effect
from wavedil.audio.effects.process import apply_model
from wavedil.audio.evaluation import evaluate
from wavedil.audio.generation.sample_files import sample_files
from wavedil.errors import WavedilError

RATE = 8000
TONE = np.sin(np.arange(1600) * 0.3).astype(np.float32)
REFUSED = r"has a peak of \d+.*: expected sound in \[-1, 1\]; if these are 16-bit integers .* divide them by 32768"


@pytest.fixture(scope="module")
def wavenet():
    torch.manual_seed(0)
    return WaveNet(4, 4, "1..2", sample_rate=RATE).eval()


@pytest.fixture(scope="module")
def vocoder():
    pytest.importorskip("torchaudio")
    local = NearestUpsampling(LogMel(RATE, n_mels=4, n_fft=64, hop_length=32))
    return WaveNet(4, 4, "1..2", sample_rate=RATE, condition=local).eval()


@pytest.fixture(scope="module")
def effect():
    torch.manual_seed(0)
    return Effect(4, 4, "1..4", sample_rate=RATE).eval()


def entrances(folder, wavenet, vocoder, effect):
    """A function for each place where sound enters, of an array ``(time,)``."""

    def file(sound, name="in.wav"):
        return audio_files.write(folder / name, sound, RATE, subtype="FLOAT")

    def pair(sound):
        return Recording(file(0.5 * TONE, "dry.wav"), file(sound))

    def folders(sound):
        file(sound, "input/a.wav")
        file(0.5 * TONE, "target/a.wav")
        return folder

    return {
        "corpus in memory": lambda x: Corpus([file(x)], RATE),
        "corpus on disk": lambda x: Corpus([file(x)], RATE, preload_bytes=0).sound(0, 100, 800),
        "trimmed corpus": lambda x: Corpus([file(x)], RATE, preload_bytes=0, trim_db=40.0),
        "segments": lambda x: read_recordings([pair(x)], RATE),
        "recordings": lambda x: split_recordings([pair(x)], RATE, context=10),
        "evaluated effect": lambda x: evaluate_effect(effect, folders(x)),
        "processed file": lambda x: process_file(effect, file(x), folder / "out.wav", subtype="FLOAT"),
        "prime": lambda x: generate(wavenet, 2, prime=torch.from_numpy(x).view(1, 1, -1)),
        "prime file": lambda x: sample_files(wavenet, folder / "out", seconds=0.001, prime=file(x)),
        "condition file": lambda x: read_features(vocoder.conditioner.upsampling.features, file(x), RATE),
        "live block": lambda x: LiveEffect(effect).process(x),
        "evaluated sounds": lambda x: evaluate(wavenet, [torch.from_numpy(x[:400])]),
    }


def test_the_level_is_checked_wherever_sound_enters(tmp_path, wavenet, vocoder, effect):
    for name, enter in entrances(tmp_path, wavenet, vocoder, effect).items():
        for scale in (32767.0, -17.0):
            with pytest.raises(WavedilError, match=REFUSED):
                enter(TONE * scale)
        assert not (tmp_path / "out.wav").exists() and not list(tmp_path.glob("out/*.wav")), name
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            enter(TONE * 1.5)
        texts = [str(warning.message) for warning in found if "outside" in str(warning.message)]
        assert len(texts) == 1 and "samples are outside [-1, 1], peak 1.5" in texts[0], (name, texts)
        enter(TONE)  # no warning
        (tmp_path / "out.wav").unlink(missing_ok=True)
        [path.unlink() for path in tmp_path.glob("out/*.wav")]


def test_a_corpus_warns_once_and_normalization_removes_the_cause(tmp_path):
    files = [
        audio_files.write(tmp_path / f"{i}.wav", TONE * peak, RATE, subtype="FLOAT")
        for i, peak in enumerate((0.5, 2.0, 3.0))
    ]
    count = int((np.abs(TONE * 2) > 1).sum() + (np.abs(TONE * 3) > 1).sum())
    expected = rf"1.wav \(and 1 more\): {count} of 3200 samples are outside .*, peak 3: .* set normalize to peak"
    with pytest.warns(UserWarning, match=expected):
        Corpus(files, RATE)
    on_disk = Corpus(files, RATE, preload_bytes=0)
    with pytest.warns(UserWarning, match="peak 2:"):
        on_disk.sound(1)
    on_disk.sound(2)  # no second warning
    loud = audio_files.write(tmp_path / "loud.wav", TONE * 32767, RATE, subtype="FLOAT")
    for normalize in ("peak", "rms"):
        for size in (0, 10**6):
            corpus = Corpus([*files, loud], RATE, normalize=normalize, preload_bytes=size)
            assert np.abs(corpus.sound(3)).max() <= 1 + 1e-6
    assert {str(path) for path in check_recordings(tmp_path).paths(["level"])} == {str(f) for f in (*files[1:], loud)}


def test_integers_are_refused(wavenet, vocoder, effect):
    integers = (TONE * 32767).astype(np.int16)
    tensor = torch.from_numpy(integers)
    calls = {
        "block": lambda: LiveEffect(effect).process(integers),
        "prime": lambda: generate(wavenet, 2, prime=integers[None, None]),
        "sound": lambda: wavenet.encode(integers),
        "sound ": lambda: vocoder.features(tensor[None]),
        "sound 0": lambda: evaluate(wavenet, [tensor]),
        "x": lambda: apply_model(effect, tensor.view(1, 1, -1)),
    }
    for name, call in calls.items():
        with pytest.raises(WavedilError, match=f"^{name.strip()} is (torch.)?int16: expected floating point; divide"):
            call()
    with pytest.raises(WavedilError, match="sound has a peak of 32"):
        vocoder.features(tensor[None].float())


def test_levels_of_odd_sounds():
    for sound in (np.zeros((1, 0), np.float32), torch.zeros(0), np.ones(3, np.float16), torch.full((2, 2), -1.0005)):
        assert check_level(sound) is sound
    for dtype in (np.float64, np.float16):
        with pytest.raises(WavedilError, match="has a peak of inf"):
            check_level(np.array([0, -np.inf], dtype))
    with pytest.raises(WavedilError, match="is bool: expected floating"):
        check_level(np.ones(3, bool))


def test_blocks_of_one_sound_are_one_sound():
    levels = Levels()
    for name in ("a.wav", "a.wav", "b.wav", "b.wav"):
        levels.add(name, 1, 10, 2.0)
    with pytest.warns(UserWarning, match=r"a.wav \(and 1 more\): 4 of 40 samples"):
        levels.warn()
