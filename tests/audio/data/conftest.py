import numpy as np
import pytest

from wavedil.audio.data import audio_files
from wavedil.audio.data.corpus import Corpus


@pytest.fixture
def corpus(tmp_path):
    """Three files at 8 kHz of 9000, 1000 and 300 samples; each sample of the corpus has another value."""
    sound = (np.arange(10_300) / 20_000).astype(np.float32)
    parts = enumerate(np.split(sound, [9000, 10_000]))
    return Corpus([audio_files.write(tmp_path / f"{i}.wav", part, 8000, subtype="FLOAT") for i, part in parts], 8000)
