"""``wavedil inpaint``."""

import json

import numpy as np
import pytest

from wavedil.audio import load, read
from wavedil.audio.inpainting import inpaint


def test_gaps_are_filled_as_by_the_function(run, wavenet, sounds, tmp_path):
    out = tmp_path / "out.flac"
    words = ["inpaint", wavenet, sounds / "0.flac", out, "--gap", "0.03:0.05", "--gap", "0.07:0.071"]
    result = json.loads(run(*words, "--candidates", 3, "--seed", 5).out)
    assert result.pop("seconds_per_gap") >= 0
    assert result == {"file": str(out), "gaps": 2, "channels": 1, "sample_rate": 8000}
    before, after = read(sounds / "0.flac")[0][0], read(out)[0][0]
    expected = inpaint(load(wavenet), before, [(0.03, 0.05), (0.07, 0.071)], candidates=3, seed=5).numpy()
    assert np.abs(after - expected).max() <= 2**-16 * 1.001 and not np.array_equal(after, before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--gap"),
        (["--gap", "0.03"], "--gap is '0.03': expected START:STOP"),
        (["--gap", "a:b"], "expected START:STOP"),
        (["--gap", "0.03:0.04:0.05"], "expected START:STOP"),
        (["--gap", "0.04:0.03"], "gap 0.04:0.03: expected 0 <= start < stop"),
        (["--gap", "nan:0.05"], "expected 0 <= start < stop"),
        (["--gap", "0:0.05"], "less than 10 ms of sound before"),
        (["--gap", "0.03:2"], "ends after the sound, which has 0.1125 seconds"),
        (["--gap", "0.03:0.05", "--gap", "0.04:0.06"], "overlap"),
        (["--gap", "0.03:0.05", "--candidates", "-1"], "candidates is -1"),
        (["--gap", "0.03:0.05", "--temperature", "nan"], "temperature"),
        (["--gap", "0.03:0.05", "--engine", "fast"], "engine is 'fast'"),
        (["--gap", "0.03:0.05", "--speaker", "ann"], "takes no speaker"),
    ],
)
def test_what_cannot_be_filled_is_refused(refused, wavenet, sounds, tmp_path, words, message):
    assert message in refused("inpaint", wavenet, sounds / "0.flac", tmp_path / "out.flac", *words)
    assert not list(tmp_path.iterdir())


def test_wrong_models_and_files_are_refused(refused, wavenet, sounds, tmp_path):
    gap, sound = ["--gap", "0.03:0.05"], sounds / "0.flac"
    assert "expected a WaveNet" in refused("inpaint", "overdrive", sound, tmp_path / "a.wav", *gap)
    assert "no such file" in refused("inpaint", wavenet, sounds / "none.wav", tmp_path / "a.wav", *gap)
    assert "input" in refused("inpaint", wavenet, sound, sound, *gap)
    assert "unknown suffix" in refused("inpaint", wavenet, sound, tmp_path / "a.xyz", *gap)
    assert "does not have PCM_16" in refused("inpaint", wavenet, sound, tmp_path / "a.ogg", *gap)
    assert not list(tmp_path.iterdir())
