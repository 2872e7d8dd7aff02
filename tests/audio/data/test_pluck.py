import json

import numpy as np
import pytest

from wavedil.audio.data import audio_files, pluck
from wavedil.audio.data.pluck import SCALE, Note, compose, make_corpus, render_melody
from wavedil.errors import WavedilError


def hz(midi):
    return 440 * 2 ** ((midi - 69) / 12)


def track_pitch(sound):
    """Pitch in Hz every 10 ms, and whether each frame has one, by librosa's pYIN."""
    librosa = pytest.importorskip("librosa", exc_type=(ImportError, OSError, RuntimeError))
    low, high = hz(SCALE[0] - 3), hz(SCALE[-1] + 3)
    return librosa.pyin(sound, fmin=low, fmax=high, sr=8000, frame_length=256, hop_length=80)[:2]


@pytest.fixture(scope="module")
def melody():
    return render_melody(compose(20, np.random.default_rng(3)), 8000)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("midi", [40, *SCALE, 76])
def test_strings_are_in_tune(midi, rate):
    sound = pluck.pluck(midi, 1.0, 1.0, rate)
    f0 = hz(midi)
    # Shifted down by f0, a tone in tune has constant phase: the slope of the phase is the error in Hz.
    shifted = sound * np.exp(-2j * np.pi * f0 * np.arange(len(sound)) / rate)
    window = np.hanning(round(8 * rate / f0))
    phase = np.unwrap(np.angle(np.convolve(shifted, window, "valid")))
    error = np.polyfit(np.arange(len(phase)) / rate, phase, 1)[0] / (2 * np.pi)
    assert abs(1200 * np.log2(1 + error / f0)) < 0.5


@pytest.mark.parametrize("midi", [SCALE[0], SCALE[-1]])
def test_strings_decay_and_soft_strokes_are_quieter_and_darker(midi):
    loud, soft = (pluck.pluck(midi, 1.0, velocity, 8000) for velocity in (1.0, 0.5))
    assert np.abs(loud).max() == pytest.approx(0.7) and np.abs(soft).max() == pytest.approx(0.35)
    levels = [np.abs(part).max() for part in np.split(loud, 10)]
    assert all(a > b for a, b in zip(levels, levels[1:], strict=False))
    assert 0.02 < levels[5] / levels[0] < 0.5
    # A crisp onset: full level within two periods of the first sample.
    assert np.abs(loud[: round(16000 / hz(midi))]).max() > 0.69

    def centroid(sound):
        power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
        return (power * np.arange(len(power))).sum() / power.sum()

    assert centroid(soft) < centroid(loud)


def test_the_pitches_of_a_melody_are_on_its_scale(melody):
    f0, voiced = track_pitch(melody)
    midi = 69 + 12 * np.log2(f0[voiced] / 440)

    def share(scale, cents):
        return (np.abs(midi[:, None] - scale).min(axis=1) <= cents / 100).mean()

    assert voiced.mean() > 0.95 and share(SCALE, 50) > 0.98 and share(SCALE, 15) > 0.97
    assert share(np.add(SCALE, 0.5), 25) < 0.02  # a scale a quarter tone higher
    assert 0.12 < np.sqrt(np.square(melody).mean()) < 0.18
    assert 0.65 < np.abs(melody).max() <= 0.7001


def test_notes_have_the_written_pitch_start_and_length():
    notes = compose(20, np.random.default_rng(5))
    f0, voiced = track_pitch(render_melody(notes, 8000))
    for note in notes:
        assert note.midi in SCALE and 0.2 < note.seconds < 0.5
        frames = slice(round(note.start * 100), round((note.start + note.seconds) * 100))
        assert voiced[frames].mean() > 0.7
        assert abs(1200 * np.log2(np.median(f0[frames][voiced[frames]]) / hz(note.midi))) < 10
    gaps = np.abs(np.diff([SCALE.index(note.midi) for note in notes]))
    assert gaps.mean() < 2.5 and len({note.midi for note in notes}) >= 6


def test_a_corpus_is_deterministic_and_reused_if_complete(tmp_path):
    files = make_corpus(tmp_path / "a", seconds=15)
    again = make_corpus(tmp_path / "b", seconds=15)
    other = make_corpus(tmp_path / "c", seconds=15, seed=1)
    assert files == audio_files.list_audio_files(tmp_path / "a") and len(files) == 2
    for one, two, three in zip(files, again, other, strict=False):
        assert one.read_bytes() == two.read_bytes() != three.read_bytes()
    assert 15 <= sum(audio_files.info(file).seconds for file in files) < 30
    index = json.loads((tmp_path / "a" / "notes.json").read_text())
    notes = [Note(**note) for note in index["files"][files[0].name]]
    sound, rate = audio_files.read(files[0])
    np.testing.assert_allclose(sound[0], render_melody(notes, rate), atol=1e-4)

    before = files[0].stat().st_mtime_ns
    assert make_corpus(tmp_path / "a", seconds=15) == files
    assert files[0].stat().st_mtime_ns == before
    files[1].unlink()  # incomplete: written again
    assert make_corpus(tmp_path / "a", seconds=15) == files and files[1].is_file()
    (tmp_path / "a" / "mine.wav").write_bytes(files[0].read_bytes())
    fewer = make_corpus(tmp_path / "a", seconds=5)  # other settings: the old files are removed
    assert len(fewer) == 1 and not files[1].exists() and (tmp_path / "a" / "mine.wav").exists()


def test_an_interrupted_corpus_is_not_complete(tmp_path, monkeypatch):
    make_corpus(tmp_path, seconds=15)

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(pluck.audio_files, "write", fail)
        with pytest.raises(OSError, match="disk full"):
            make_corpus(tmp_path, seconds=15, seed=1)
    assert not (tmp_path / "notes.json").exists()
    assert len(make_corpus(tmp_path, seconds=15)) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: render_melody([], 8000), "at least one note"),
        (lambda: render_melody([Note(60, 1, 1, 1), Note(60, 0, 1, 1)], 8000), "sorted by start"),
        (lambda: pluck.pluck(100, 1, 1, 8000), "midi is 100 .*: expected below a sixth of the rate, 8000 Hz"),
        (lambda: make_corpus("unused", seconds=0), "seconds is 0, .*: expected > 0"),
        (lambda: make_corpus("unused", sample_rate=2000), "sample_rate 2000: expected > 0 and >= 3600"),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(WavedilError, match=words):
        call()
