"""Paired recordings: finding, cutting, splitting, and errors."""

import numpy as np
import pytest

from wavedil.audio.data import audio_files
from wavedil.audio.data.overdrive import make_recordings, overdrive
from wavedil.audio.data.recording_files import Recording, find_recordings
from wavedil.audio.data.recordings import read_recordings, split_recordings
from wavedil.errors import WavedilError

RATE = 8000


def noise(seed, time):
    return 0.1 * np.random.default_rng(seed).standard_normal(time).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    for index in range(3):
        for kind in ("input", "target"):
            gain = 1 if kind == "input" else 0.5
            audio_files.write(tmp_path / kind / f"take_{index}.wav", gain * noise(index, 1000), RATE)
    return tmp_path


def table(folder, *lines):
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_files_in_folders_are_paired_by_name(folder):
    found = find_recordings(folder)
    assert [(r.input.parent.name, r.target.parent.name, r.input.name == r.target.name) for r in found] == [
        ("input", "target", True)
    ] * 3
    (folder / "target" / "take_1.wav").unlink()
    with pytest.raises(WavedilError, match=r"take_1.wav has no target of the same name \(1 of 3 files"):
        find_recordings(folder)


def test_a_table_gives_segments_and_knobs(folder):
    path = table(folder, "input,target,gain,segment,skip,held_out", "input/take_0.wav,target/take_1.wav,0.5,250,100,1")
    (recording,) = find_recordings(path)
    assert recording == Recording(
        folder / "input/take_0.wav", folder / "target/take_1.wav", {"gain": 0.5}, 250, 100, held_out=1
    )
    train, valid, note = split_recordings([recording], RATE, context=10)
    assert [len(part) for part in (train, valid)] == [3, 1] and "held_out of the table" in str(note)
    dry, wet = (audio_files.read(path)[0][0] for path in (recording.input, recording.target))
    assert (valid[0].input == dry[750:]).all() and (train[1].target == wet[250:500]).all()
    assert valid[0].skip == 100 and valid[0].knobs == {"gain": 0.5} and "segment 3" in valid[0].name


def test_held_out_recordings(folder):
    few = find_recordings(folder)
    train, valid, note = split_recordings(few, RATE, context=30)
    assert [len(s) for s in train] == [900] * 3 and [len(s) for s in valid] == [130] * 3
    assert [s.skip for s in valid] == [30] * 3 and "last tenth of each" in str(note)
    wet = audio_files.read(few[2].target)[0][0]
    assert (valid[2].target[30:] == wet[900:]).all() and (train[2].target == wet[:900]).all()
    train, valid, note = split_recordings(few, RATE, context=30, validation="_1$")
    assert (len(train), len(valid), valid[0].skip) == (2, 1, 0) and "take_1" in valid[0].name
    train, valid, note = split_recordings(few * 4, RATE, context=30)
    assert (len(train), len(valid)) == (10, 2)
    fading = audio_files.read(few[0].target)[0][0]
    fading[850:] = 0
    audio_files.write(folder / "fading.wav", fading, RATE, "FLOAT")
    with pytest.raises(WavedilError, match="fading.wav from sample 870 is silent or constant from sample 30 on"):
        split_recordings([Recording(few[0].input, folder / "fading.wav")], RATE, context=30)
    table = [Recording(path, few[0].target) for path in (few[0].input.resolve(), few[1].input)]
    assert len(split_recordings(table, RATE, context=30, validation="_1$")[1]) == 1
    with pytest.raises(WavedilError, match="0 segments to train on and 3 to validate on"):
        split_recordings(few, RATE, context=30, validation="take")
    segments = [Recording(few[0].input, few[0].target, segment=50, skip=9)]
    train, valid, _ = split_recordings(segments, RATE, context=30)
    assert (len(train), len(valid), valid[-1].skip) == (18, 2, 9)


def test_other_sample_rates_are_resampled_only_on_request(folder, caplog):
    caplog.set_level("INFO")
    (recording, *_) = find_recordings(folder)
    with pytest.raises(
        WavedilError, match=r"take_0.wav has 8000 Hz and the model 16000 Hz: .*sample_rate 8000\).*resample"
    ):
        read_recordings([recording], 16000)
    audio_files.write(folder / "other.wav", noise(0, 2000), 16000)
    with pytest.raises(WavedilError, match=r"take_0.wav has 8000 Hz and .*other.wav 16000 Hz: expected the same"):
        read_recordings([Recording(recording.input, folder / "other.wav")], 8000)
    [[segment]], _ = read_recordings([recording], 16000, resample=True)
    assert len(segment) == 2000 and caplog.messages == ["resampling 2 files from 8000 Hz to 16000 Hz"]


def test_bad_recordings_raise(folder):
    audio_files.write(folder / "long.wav", noise(0, 1400), RATE)
    silent = noise(0, 1000)
    silent[500:] = 0
    audio_files.write(folder / "silent.wav", silent, RATE)
    start = folder / "input/take_0.wav"
    for recording, message in (
        (
            Recording(start, folder / "long.wav"),
            r"take_0.wav has 1000 samples and .*long.wav 1400: expected the same",
        ),
        (
            Recording(start, folder / "silent.wav", skip=500),
            r"silent.wav is silent or constant from sample 500 on, so its ESR",
        ),
        (
            Recording(start, folder / "silent.wav", segment=250),
            r"silent.wav, segment 2 is silent or constant from sample 0 on",
        ),
        (Recording(start, start, segment=300), "expected a multiple of segment 300"),
        (Recording(start, start, skip=1000), "skip is 1000: expected less than a segment, 1000"),
        (Recording(start, folder / "none.wav"), "none.wav: no such file"),
    ):
        with pytest.raises(WavedilError, match=message):
            read_recordings([recording], RATE)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,b", "1,2"], "has the columns a, b and 1 rows: expected columns input and target"),
        (["input,target"], "and 0 rows: expected columns input and target and at least one row"),
        (["input,target,gain", "a.wav,b.wav"], "line 2: expected 3 values"),
        (["input,target,gain", "a.wav,b.wav,loud"], "line 2: gain is 'loud': expected a number"),
        (["input,target,gain", "a.wav,b.wav,"], "line 2: gain is '': expected a number"),
        (["input,target,skip", "a.wav,b.wav,1.5"], "line 2: skip is '1.5'"),
        (["input,target,gain,gain", "a.wav,b.wav,0,1"], "has two columns 'gain': keep one of them"),
        (["input,target,skip", "a.wav,b.wav,-1"], "expected segment of at least 1, skip and held_out of at least 0"),
    ],
)
def test_bad_tables_raise(tmp_path, lines, message):
    with pytest.raises(WavedilError, match=message):
        find_recordings(table(tmp_path, *lines))


def test_built_in_targets_are_the_overdrive_of_their_input(tmp_path):
    recordings = find_recordings(make_recordings(tmp_path, 2.0, RATE))
    assert [r.knobs for r in recordings] == [{"drive": 0.0}, {"drive": 0.5}, {"drive": 1.0}]
    sound = audio_files.read(recordings[0].input)[0][0]
    for recording in recordings:
        target = audio_files.read(recording.target)[0][0]
        np.testing.assert_array_equal(target, overdrive(sound, recording.knobs["drive"], RATE))
        assert 0.05 < np.abs(target).max() < 1
    later = sound.copy()
    later[500:] = 0
    assert (overdrive(later, 1, RATE)[:500] == overdrive(sound, 1, RATE)[:500]).all()
