"""Pieces of compressed sound equal the same part of one read."""

import numpy as np
import pytest
import soundfile

from wavedil.audio.data import audio_files
from wavedil.audio.data.streams import read_blocks

CODED = [  # format, subtype, rate, channels, options; those that keep a memory of earlier samples
    *(
        ("MP3", "MPEG_LAYER_III", rate, channels, {"bitrate_mode": mode, "compression_level": level})
        for rate, channels in ((8000, 1), (24000, 2), (44100, 1))
        for mode, level in (("VARIABLE", 0.9), ("CONSTANT", 0.99), ("AVERAGE", 0.9))
    ),
    *(("OGG", subtype, rate, 2, {}) for subtype in ("VORBIS", "OPUS") for rate in (8000, 48000)),
    ("AIFF", "DWVW_16", 22050, 1, {}),
    ("AIFF", "IMA_ADPCM", 22050, 2, {}),
    ("AU", "G723_24", 8000, 1, {}),
    ("CAF", "ALAC_16", 44100, 2, {}),
    ("W64", "MS_ADPCM", 16000, 2, {}),
    ("WAV", "GSM610", 8000, 1, {}),
    ("WAV", "NMS_ADPCM_24", 8000, 1, {}),
]


CASES = [(*case, tag) for case in CODED for tag in ([False, True] if case[0] == "MP3" else [False])]


@pytest.mark.parametrize(("kind", "subtype", "rate", "channels", "options", "without_tag"), CASES)
def test_pieces_of_coded_sound_are_pieces_of_one_read(tmp_path, kind, subtype, rate, channels, options, without_tag):
    time = np.arange(4 * rate if kind != "MP3" else 12 * rate) / rate
    generator = np.random.default_rng(0)
    sound = 0.4 * np.sin(2 * np.pi * (200 + 90 * time) * time) * (np.sin(20 * time) > -0.3)
    sound += generator.uniform(-0.1, 0.1, len(time)) * (np.sin(8 * time) > 0)
    path = tmp_path / f"a.{kind.lower()}"
    try:
        with soundfile.SoundFile(path, "w", rate, channels, subtype, format=kind, **options) as file:
            file.write(np.stack([sound] * channels, 1).clip(-0.9, 0.9))
    except soundfile.LibsndfileError:
        pytest.skip("this libsndfile cannot write the file")
    if without_tag:  # the first frame of an mp3 file, which has the length
        data = path.read_bytes()
        path.write_bytes(data[data.index(data[:2], 40) :])
    whole = audio_files.read(path, mono=False)[0]
    assert audio_files.info(path).frames == whole.shape[1] >= len(time) - 1200
    for size in (777, 4096):
        np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, size)), axis=1), whole)
    for start in generator.integers(1, whole.shape[1] - 1000, 8).tolist():
        crop = audio_files.read(path, start=start, frames=1000, mono=False)[0]
        np.testing.assert_allclose(crop, whole[:, start : start + 1000], atol=1e-6)
