"""``wavedil compress`` and ``wavedil expand``."""

import json

import numpy as np

from wavedil.audio import load, read


def test_a_sound_is_compressed_and_expanded(run, refused, wavenet, sounds, tmp_path):
    packed, back = tmp_path / "0.wdil", tmp_path / "back.wav"
    result = json.loads(run("compress", wavenet, sounds / "0.flac", packed).out)
    assert result["bytes"] == packed.stat().st_size and result["seconds"] == 900 / 8000 and not result["exact"]
    result = json.loads(run("expand", wavenet, packed, back).out)
    assert result["file"] == str(back) and result["real_time_factor"] >= 0
    model, sound = load(wavenet), read(sounds / "0.flac")[0]
    import torch

    expected = model.decode(model.encode(torch.from_numpy(sound))).numpy()
    assert np.abs(read(back)[0] - expected).max() <= 2**-15
    before = packed.read_bytes()
    assert "no such" in refused("compress", wavenet, sounds / "none.flac", packed)
    assert "input" in refused("expand", wavenet, packed, packed)
    assert "expected a WaveNet" in refused("expand", "overdrive", packed, back)
    assert "engine is 'fast'" in refused("expand", wavenet, packed, back, "--engine", "fast")
    assert packed.read_bytes() == before
