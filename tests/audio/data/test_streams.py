"""Reading in blocks raises the same errors as reading in one piece."""

import numpy as np
import pytest
import soundfile

from wavedil.audio.data.audio_files import read
from wavedil.audio.data.streams import read_blocks, written_blocks
from wavedil.errors import WavedilError


@pytest.mark.parametrize("rate", [None, 16000])
@pytest.mark.parametrize("problem", ["nan", "empty", "missing", "text"])
def test_errors_are_those_of_read(tmp_path, problem, rate):
    path = tmp_path / "a.wav"
    sound = np.zeros((0 if problem == "empty" else 1000, 2))
    sound[700:, 1] = np.nan if problem == "nan" else 0
    if problem == "text":
        path.write_text("not a sound\n" * 30)
    elif problem != "missing":
        soundfile.write(path, sound, 8000, subtype="FLOAT")
    errors = []
    for attempt in (lambda: read(path, sample_rate=rate), lambda: list(read_blocks(path, 300, rate))):
        with pytest.raises(WavedilError) as caught:
            attempt()
        errors.append(str(caught.value))
    assert errors[0] == errors[1] and str(path) in errors[0]


@pytest.mark.parametrize("rate", [None, 16000])
@pytest.mark.parametrize("size", [1, 137, 5000])
def test_blocks_are_the_file(tmp_path, size, rate):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 400)).astype(np.float32)
    with written_blocks(tmp_path / "a.wav", 8000, 2, "FLOAT") as append:
        for start in range(0, 400, size):
            assert append(sound[:, start : start + size]) == 0
    blocks = np.concatenate(list(read_blocks(tmp_path / "a.wav", size, rate)), axis=1)
    expected, _ = read(tmp_path / "a.wav", sample_rate=rate, mono=False)
    np.testing.assert_allclose(blocks, expected, atol=2e-6)
    if rate is None:
        np.testing.assert_array_equal(blocks, sound)
