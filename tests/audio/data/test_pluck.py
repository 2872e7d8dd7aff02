import json

import numpy as np
import pytest

from wavedil.audio.data import audio_files, pluck
from wavedil.audio.data.pluck import SCALE, Note, compose, make_corpus, render_melody
from wavedil.audio.pitch import midi_to_hz, share_on_notes, track_pitch
from wavedil.errors import WavedilError

MISSING = {"exc_type": (ImportError, OSError, RuntimeError)}


@pytest.fixture(scope="module")
def melody():
    return render_melody(compose(20, np.random.default_rng(3)), 8000)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("midi", [40, *SCALE, 76])
def test_strings_are_in_tune(midi, rate):
    sound = pluck.pluck(midi, 1.0, 1.0, rate)
    f0 = midi_to_hz(midi)
    # Moved down by f0, a tone in tune stands still: the slope of its phase is the error in Hz.
    still = sound * np.exp(-2j * np.pi * f0 * np.arange(len(sound)) / rate)
    window = np.hanning(round(8 * rate / f0))
    phase = np.unwrap(np.angle(np.convolve(still, window, "valid")))
    error = np.polyfit(np.arange(len(phase)) / rate, phase, 1)[0] / (2 * np.pi)
    assert abs(1200 * np.log2(1 + error / f0)) < 0.5


@pytest.mark.parametrize("midi", [SCALE[0], SCALE[-1]])
def test_strings_decay_and_soft_strokes_are_soft_and_dark(midi):
    loud, soft = (pluck.pluck(midi, 1.0, velocity, 8000) for velocity in (1.0, 0.5))
    assert np.abs(loud).max() == pytest.approx(0.7) and np.abs(soft).max() == pytest.approx(0.35)
    levels = [np.abs(part).max() for part in np.split(loud, 10)]
    assert all(a > b for a, b in zip(levels, levels[1:], strict=False))
    assert 0.02 < levels[5] / levels[0] < 0.5
    # A crisp onset: full level within two periods of the first sample.
    assert np.abs(loud[: round(16000 / midi_to_hz(midi))]).max() > 0.69

    def centroid(sound):
        power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
        return (power * np.arange(len(power))).sum() / power.sum()

    assert centroid(soft) < centroid(loud)


def test_a_melody_lies_on_its_scale(melody):
    share = share_on_notes(melody, 8000, SCALE)
    assert share["voiced"] > 0.95 and share["on_notes"] > 0.99
    assert share_on_notes(melody, 8000, SCALE, cents=10)["on_notes"] > 0.97
    assert 0.12 < share["rms"] < 0.18
    assert 0.65 < np.abs(melody).max() <= 0.7001
    # The same melody against a scale a quarter tone off: nothing fits.
    assert share_on_notes(melody, 8000, np.add(SCALE, 0.5), cents=25)["on_notes"] < 0.02


def test_each_note_sounds_when_and_as_written():
    notes = compose(20, np.random.default_rng(5))
    sound = render_melody(notes, 8000)
    for note in notes:
        assert note.midi in SCALE and 0.2 < note.seconds < 0.5
        start = round(note.start * 8000)
        f0, voiced = track_pitch(sound[start : start + round(note.seconds * 8000)], 8000)
        assert voiced.mean() > 0.7
        assert abs(1200 * np.log2(np.median(f0[voiced]) / midi_to_hz(note.midi))) < 10
    gaps = np.abs(np.diff([SCALE.index(note.midi) for note in notes]))
    assert gaps.mean() < 2.5 and len({note.midi for note in notes}) >= 6


def test_corpus_is_complete_deterministic_and_reused(tmp_path):
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
    files[1].unlink()  # incomplete: made anew
    assert make_corpus(tmp_path / "a", seconds=15) == files and files[1].is_file()
    (tmp_path / "a" / "mine.wav").write_bytes(files[0].read_bytes())
    fewer = make_corpus(tmp_path / "a", seconds=5)  # other settings: what it wrote before goes
    assert len(fewer) == 1 and not files[1].exists() and (tmp_path / "a" / "mine.wav").exists()


def test_an_interrupted_corpus_is_not_taken_for_a_complete_one(tmp_path, monkeypatch):
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
        (lambda: render_melody([Note(60, 1, 1, 1), Note(60, 0, 1, 1)], 8000), "in order"),
        (lambda: pluck.pluck(100, 1, 1, 8000), "too high for 8000 Hz"),
        (lambda: make_corpus("unused", seconds=0), "positive duration"),
        (lambda: make_corpus("unused", sample_rate=2000), "at least 3600 Hz"),
        (lambda: track_pitch(np.zeros((2, 9)), 8000), r"shape \(2, 9\)"),
        (lambda: track_pitch(np.zeros(9), 8000, 100, 4000), "a quarter of the sample rate"),
    ],
)
def test_errors(call, words):
    with pytest.raises(WavedilError, match=words):
        call()


@pytest.mark.parametrize("hz", [110.0, 196.3, 440.0, 652.0])
def test_pitch_of_a_rich_tone_has_no_octave_errors(hz):
    time = np.arange(8000) / 8000
    for first in (1, 2):  # with the fundamental, and without it
        tone = sum(np.sin(2 * np.pi * k * hz * time + k) / k for k in range(first, 6))
        f0, voiced = track_pitch(0.2 * tone, 8000)
        assert voiced.all()
        # A period of 652 Hz is 12 samples: the parabola through three lags is off by 15 cents.
        assert np.abs(1200 * np.log2(f0 / hz)).max() < 25


def test_noise_and_silence_have_no_pitch():
    noise = np.random.default_rng(0).normal(0, 0.2, 40_000)
    assert share_on_notes(noise, 8000, SCALE)["voiced"] < 0.02
    assert share_on_notes(np.zeros(8000), 8000, SCALE) == pytest.approx(
        {"voiced": 0, "on_notes": 0, "chance": 0.357, "rms": 0}, abs=1e-3
    )
    assert track_pitch(np.zeros(5), 8000)[0].shape == (0,)
    hum = np.sin(np.arange(8000) * 0.3)
    assert track_pitch(0.01 * hum, 8000)[1].all() and not track_pitch(1e-4 * hum, 8000)[1].any()


def test_pitch_agrees_with_librosa(melody):
    librosa = pytest.importorskip("librosa", **MISSING)
    part = melody[: 8000 * 4]
    f0, voiced = track_pitch(part, 8000, 130, 650)
    # Their frames hold the window twice as well, so frame i starts at the same sample.
    length = 2 * (int(np.ceil(8000 / 130)) + 1)
    theirs = librosa.yin(
        part, fmin=130, fmax=650, sr=8000, frame_length=length, hop_length=80,
        trough_threshold=0.15, center=False,
    )  # fmt: skip
    count = min(len(theirs), len(f0))
    assert count > 390 and voiced[:count].mean() > 0.9
    cents = 1200 * np.abs(np.log2(f0[:count] / theirs[:count]))[voiced[:count]]
    # They differ where two notes meet in a frame.
    assert (cents < 20).mean() > 0.95 and np.median(cents) < 10
