import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from wavedil.audio.data import audio_files
from wavedil.audio.data.streams import read_blocks
from wavedil.errors import WavedilError

RATE = 22050


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).uniform(-0.9, 0.9, (2, 4 * RATE)).astype(np.float32)


def tone(seconds, rate, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype("f4")


ODD = [
    ("a.wav", "WAV", "PCM_16", None, 1, 1e-4),
    ("a.WAV", "WAV", "PCM_U8", None, 2, 1e-2),
    ("a.wav", "WAV", "DOUBLE", None, 1, 1e-7),
    ("a.wav", "WAV", "PCM_16", "BIG", 2, 1e-4),
    ("a.wav", "WAVEX", "PCM_24", None, 8, 1e-6),
    ("a.wav", "RF64", "PCM_32", None, 1, 1e-7),
    ("a.wav", "WAV", "ULAW", None, 1, 5e-2),
    ("a.aiff", "AIFF", "PCM_24", None, 3, 1e-6),
    ("a.flac", "FLAC", "PCM_24", None, 2, 1e-6),
    ("a.w64", "W64", "FLOAT", None, 1, 1e-7),
    ("leading ; $(x) ü.wav", "WAV", "PCM_16", None, 1, 1e-4),
]


@pytest.mark.parametrize(("name", "kind", "subtype", "endian", "channels", "tolerance"), ODD)
def test_reads_what_soundfile_writes(tmp_path, name, kind, subtype, endian, channels, tolerance):
    sound = np.random.default_rng(1).uniform(-0.9, 0.9, (channels, 1000))
    path = tmp_path / name
    soundfile.write(path, sound.T, 11025, format=kind, subtype=subtype, endian=endian)
    read, rate = audio_files.read(path, mono=False)
    assert rate == 11025 and read.dtype == np.float32 and read.shape == (channels, 1000)
    np.testing.assert_allclose(read, sound, atol=tolerance)
    mixed, _ = audio_files.read(path)
    np.testing.assert_allclose(mixed, read.mean(axis=0, keepdims=True), atol=1e-6)
    info = audio_files.info(path)
    assert (info.frames, info.channels, info.sample_rate) == (1000, channels, 11025)
    assert info.seconds == pytest.approx(1000 / 11025)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("rate", [None, 8000, 16000, 44100])
def test_a_crop_equals_the_same_part_of_the_file(tmp_path, noise, suffix, rate):
    path = audio_files.write(tmp_path / f"a{suffix}", noise, RATE)
    full, got = audio_files.read(path, sample_rate=rate, mono=False)
    assert got == (rate or RATE)
    assert full.shape[1] == 4 * got
    end = full.shape[1]
    for start, frames in [(0, 50), (1, 3000), (7777, 2000), (end - 300, 900), (end - 1, 1)]:
        crop, _ = audio_files.read(path, start=start, frames=frames, sample_rate=rate, mono=False)
        np.testing.assert_allclose(crop, full[:, start : start + frames], atol=2e-6)


@pytest.mark.parametrize(("source", "rate"), [(44101, 16000), (48000, 44100), (8000, 48000)])
def test_resampling_keeps_time_and_tone(tmp_path, source, rate):
    path = audio_files.write(tmp_path / "a.wav", tone(1.5, source), source, subtype="FLOAT")
    sound, _ = audio_files.read(path, sample_rate=rate)
    expected = tone(1.5, rate)
    assert abs(sound.shape[1] - len(expected)) <= 1
    middle = slice(2000, 10_000)
    np.testing.assert_allclose(sound[0, middle], expected[middle], atol=1e-4)
    crop, _ = audio_files.read(path, sample_rate=rate, start=9000, frames=1000)
    np.testing.assert_allclose(crop[0], expected[9000:10_000], atol=1e-4)


def test_reading_a_crop_does_not_decode_the_rest(tmp_path, monkeypatch):
    path = audio_files.write(tmp_path / "a.flac", tone(60, 16000), 16000)
    decoded = []
    original = soundfile.SoundFile.read

    def counting(self, *args, **kwargs):
        block = original(self, *args, **kwargs)
        decoded.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    audio_files.read(path, start=400_000, frames=1000)
    assert sum(decoded) == 1000
    decoded.clear()
    audio_files.read(path, start=200_000, frames=1000, sample_rate=8000)
    assert sum(decoded) < 10_000
    path = audio_files.write(tmp_path / "a.mp3", tone(60, 16000), 16000)
    decoded.clear()
    audio_files.read(path, start=800_000, frames=1000)
    assert sum(decoded) < 70_000


def test_wrong_lengths_in_headers_are_ignored(tmp_path, noise):
    path = audio_files.write(tmp_path / "a.mp3", noise, RATE)
    path.write_bytes(path.read_bytes()[:15_000])
    promised = soundfile.info(path).frames
    sound, _ = audio_files.read(path)
    assert audio_files.info(path).frames == sound.shape[1] < promised
    crop, _ = audio_files.read(path, start=1000, frames=2**62)
    np.testing.assert_array_equal(crop, sound[:, 1000:])

    path = audio_files.write(tmp_path / "b.mp3", noise, RATE)
    data = bytearray(path.read_bytes())
    data[9_000:9_400] = bytes(400)  # frames lost in the middle
    path.write_bytes(data)
    assert audio_files.info(path).frames == audio_files.read(path)[0].shape[1] < soundfile.info(path).frames

    wav = audio_files.write(tmp_path / "a.wav", noise, RATE)
    data = bytearray(wav.read_bytes()[:5044])
    data[40:44] = b"\xff\xff\xff\xff"
    wav.write_bytes(data)
    assert audio_files.info(wav).frames == audio_files.read(wav)[0].shape[1] == 1250


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_streamed_wav_file_is_read_to_its_end(tmp_path, noise, subtype):
    path = audio_files.write(tmp_path / "a.wav", noise[:, :5000], RATE, subtype)
    expected = audio_files.read(path)[0]
    data = path.read_bytes()
    at = data.index(b"data") + 4
    for size in (0, 2**32 - 1):
        path.write_bytes(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])
        assert audio_files.info(path).frames == 5000
        np.testing.assert_array_equal(audio_files.read(path)[0], expected)
        np.testing.assert_array_equal(audio_files.read(path, start=4000)[0], expected[:, 4000:])
        np.testing.assert_array_equal(
            np.concatenate(list(read_blocks(path, 300)), axis=1).mean(0), expected[0], strict=True
        )
    tag = b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    path.write_bytes(data[:at] + bytes(4) + tag)
    with pytest.raises(WavedilError, match="is empty"):
        audio_files.read(path)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff", ".opus"])
def test_a_file_of_one_sample(tmp_path, suffix):
    path = audio_files.write(tmp_path / f"a{suffix}", np.full(1, 0.5), 8000)
    assert audio_files.info(path).frames == 1 and audio_files.read(path)[0].shape == (1, 1)
    assert audio_files.read(path, sample_rate=16000)[0].shape == (1, 2)


def test_what_follows_the_sound(tmp_path, noise):
    for suffix in (".wav", ".flac", ".mp3", ".aiff"):
        path = audio_files.write(tmp_path / f"a{suffix}", noise, RATE)
        expected = audio_files.read(path)[0]
        path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
        assert audio_files.info(path).frames == expected.shape[1]
        np.testing.assert_array_equal(audio_files.read(path)[0], expected)
    path = audio_files.write(tmp_path / "a.ogg", noise, RATE)
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(WavedilError, match="has several Ogg streams, one after the other"):
        audio_files.read(path)


@pytest.mark.parametrize("name", [b"caf\xe9\xff.wav", b"x" * 245 + b".wav", b"a\nb.wav"])
def test_any_name_that_the_system_allows(tmp_path, noise, name):
    path = tmp_path / os.fsdecode(name)
    try:
        path.touch()
    except OSError:
        pytest.skip("the file system does not allow the name")
    path.unlink()
    audio_files.write(path, noise, RATE)
    assert audio_files.info(path).frames == noise.shape[1]
    assert audio_files.list_audio_files(tmp_path) == [path]
    path.write_bytes(b"no sound")
    with pytest.raises(WavedilError, match="not a readable audio file") as caught:
        audio_files.read(path)
    assert str(caught.value).isprintable()


def test_a_header_with_an_impossible_length_gives_no_traceback(tmp_path, noise):
    """The length in the tag of an mp3 file is an integer of 32 bits, less the samples that its encoder added."""
    data = bytearray(audio_files.write(tmp_path / "a.mp3", noise, RATE).read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    for count in (0, 1, 2**31 - 1, 2**32 - 1):
        data[at : at + 4] = count.to_bytes(4, "big")
        path = tmp_path / "b.mp3"
        path.write_bytes(data)
        try:
            assert audio_files.info(path).frames == audio_files.read(path)[0].shape[1]
        except WavedilError as error:
            assert "b.mp3" in str(error)


def garbage(path, noise):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def empty(path, noise):
    path.write_bytes(b"")


def text(path, noise):
    path.write_text("not a sound\n" * 30)


def no_samples(path, noise):
    soundfile.write(path, np.zeros((0, 1)), RATE, format="WAV")


def truncated_header(path, noise):
    soundfile.write(path, noise.T, RATE, format="WAV")
    path.write_bytes(path.read_bytes()[:30])


def truncated_flac(path, noise):
    soundfile.write(path, noise.T, RATE, format="FLAC")
    path.write_bytes(path.read_bytes()[:50_000])


def scrambled_flac(path, noise):
    soundfile.write(path, noise.T, RATE, format="FLAC")
    data = bytearray(path.read_bytes())
    data[30_000:31_000] = bytes(1000)
    path.write_bytes(data)


def nan(path, noise):
    values = noise.copy()
    values[1, 5000] = np.nan
    soundfile.write(path, values.T, RATE, format="WAV", subtype="FLOAT")


def inf(path, noise):
    values = noise.astype(np.float64)
    values[0, 5000] = 1e300  # finite as written, infinite as float32
    soundfile.write(path, values.T, RATE, format="WAV", subtype="DOUBLE")


def missing(path, noise):
    pass


def folder(path, noise):
    path.mkdir()


def pipe(path, noise):
    os.mkfifo(path)


BROKEN = [
    (garbage, "not a readable audio file"),
    (empty, "not a readable audio file"),
    (text, "not a readable audio file"),
    (no_samples, r"is empty \(0 samples\)"),
    (truncated_header, "not a readable audio file"),
    (truncated_flac, "not a readable audio file"),
    (scrambled_flac, "not a readable audio file"),
    (nan, r"has NaN or Inf, first at sample 5000 \(0.227 s\)"),
    (inf, "has NaN or Inf, first at sample 5000"),
    (missing, "no such file"),
    (folder, "not a regular file"),
    (pipe, "not a regular file"),
]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(("spoil", "words"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("rate", [None, 16000])
def test_broken_files_raise_one_error_with_the_path(tmp_path, noise, spoil, words, rate):
    path = tmp_path / "odd.wav"
    spoil(path, noise)
    with pytest.raises(WavedilError, match=words) as caught:
        audio_files.read(path, sample_rate=rate)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_impossible_arguments_raise(tmp_path, noise):
    path = audio_files.write(tmp_path / "a.wav", noise[:, :100], RATE)
    for request in ({"start": -1}, {"frames": 0}, {"sample_rate": -8000}):
        with pytest.raises(WavedilError, match="is -1: expected|frames is 0: expected|sample_rate is -8000: expected"):
            audio_files.read(path, **request)
    for rate in (None, 8000):
        with pytest.raises(WavedilError, match="start is 100, but .* ends before that"):
            audio_files.read(path, start=100, sample_rate=rate)
    slow = tmp_path / "slow.wav"
    soundfile.write(slow, noise[0], 1)
    assert audio_files.read(slow)[1] == 1
    with pytest.raises(WavedilError, match="cannot resample from 1 to 16000 Hz"):
        audio_files.read(slow, sample_rate=16000)


@pytest.mark.skipif("WAVEDIL_DATA" not in os.environ, reason="set WAVEDIL_DATA to the data folder")
def test_collection_of_odd_files():
    files = [p for p in Path(os.environ["WAVEDIL_DATA"], "audio/robust").rglob("*") if p.is_file()]
    assert files, "WAVEDIL_DATA has no audio/robust"
    for path in files:
        for rate in (None, 16000):
            try:
                sound, _ = audio_files.read(path, sample_rate=rate)
            except WavedilError as error:
                assert str(path) in str(error)
            else:
                assert np.isfinite(sound).all() and sound.shape[1] > 0
                if rate is None:
                    assert audio_files.info(path).frames == sound.shape[1]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff"])
def test_write_then_read(tmp_path, suffix):
    path = audio_files.write(tmp_path / "new" / f"a{suffix}", torch.from_numpy(tone(1, 16000)), 16000)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    sound, rate = audio_files.read(path)
    assert rate == 16000 and abs(sound.shape[1] - 16000) < 10
    tolerance = 1e-4 if suffix in (".wav", ".flac", ".aiff") else 0.05
    np.testing.assert_allclose(sound[0, 1000:9000], tone(1, 16000)[1000:9000], atol=tolerance)


def test_samples_above_full_scale_are_clipped_and_counted(tmp_path):
    loud = np.array([0.5, 1.5, -2.0, 1.0], np.float32)
    with pytest.warns(UserWarning, match=r"a\.wav: 2 of 4 samples are outside .* \(peak 2\)"):
        audio_files.write(tmp_path / "a.wav", loud, 8000)
    np.testing.assert_allclose(audio_files.read(tmp_path / "a.wav")[0][0], loud.clip(-1, 1), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio_files.write(tmp_path / "b.wav", loud, 8000, subtype="FLOAT")
    np.testing.assert_array_equal(audio_files.read(tmp_path / "b.wav")[0][0], loud)


@pytest.mark.parametrize(
    ("name", "sound", "options", "words"),
    [
        ("a.wav", np.array([0.0, np.nan]), {}, "1 of 2 samples are NaN or Inf"),
        ("a.wav", np.zeros((2, 0)), {}, "at least one sample"),
        ("a.wav", np.zeros((1, 2, 3)), {}, "shape (1, 2, 3)"),
        ("a.wav", np.zeros(3, np.int16), {}, "is torch.int16: expected floating point"),
        ("a.txt", np.zeros(3), {}, "unknown suffix '.txt': expected one of .wav"),
        ("a.flac", np.zeros(3), {"subtype": "FLOAT"}, "has no subtype 'FLOAT': expected one of PCM_S8"),
        ("a.mp3", np.zeros(3), {"sample_rate": 12345}, "cannot write MP3"),
    ],
)
def test_a_failed_write_keeps_the_old_file(tmp_path, name, sound, options, words):
    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(WavedilError) as caught:
        audio_files.write(path, sound, **{"sample_rate": 8000, **options})
    assert words in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_files_are_listed_in_sorted_order(tmp_path):
    names = ["b.wav", "a/z.FLAC", "a/b/c.ogg", "a-1.mp3", "B.wav"]
    hidden = [".x.wav", ".cache/y.wav", "a/.z.wav", "notes.txt", "a/c.raw"]
    for name in names + hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in audio_files.list_audio_files(tmp_path)]
    assert found == sorted(names)
    assert audio_files.list_audio_files(tmp_path / "b.wav") == [tmp_path / "b.wav"]
    with pytest.raises(WavedilError, match="nowhere: no such folder"):
        audio_files.list_audio_files(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WavedilError, match=r"empty: no audio files .* files that end in \.wav"):
        audio_files.list_audio_files(tmp_path / "empty")
