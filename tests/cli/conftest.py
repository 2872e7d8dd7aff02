"""How the tests run the shell, and models for it."""

import pytest
import torch

from wavedil.audio import WaveNet, save
from wavedil.audio.data import audio_files
from wavedil.cli import main


@pytest.fixture
def run(capsys):
    """Runs a command line that succeeds and returns what it printed."""

    def run(*words):
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr()

    return run


@pytest.fixture
def refused(capsys):
    """Runs a command line that is refused and returns the one line of its error."""

    def refused(*words):
        assert main([str(word) for word in words]) == 2
        out = capsys.readouterr()
        assert out.err.startswith("error: ") and out.err.count("\n") == 1 and not out.out, out.err
        return out.err

    return refused


@pytest.fixture(scope="session")
def wavenet(tmp_path_factory):
    """The folder of a small WaveNet at 8000 Hz."""
    torch.manual_seed(0)
    return str(save(WaveNet(8, 8, "1..8", sample_rate=8000), tmp_path_factory.mktemp("models") / "model"))


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """A folder of three sounds at 8000 Hz with 900, 800 and 70 samples."""
    folder = tmp_path_factory.mktemp("sounds")
    for index, frames in enumerate((900, 800, 70)):
        audio_files.write(folder / f"{index}.flac", 0.3 * torch.sin(torch.arange(frames) / 7).unsqueeze(0), 8000)
    return folder
