"""The page docs/lightning.md: its scripts run with a plain Trainer, in a process of their own as a user's would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from wavedil.audio import load
from wavedil.audio.data import audio_files
from wavedil.vision import load as load_segmenter

PAGE = Path(__file__).parents[2] / "docs" / "lightning.md"


def test_scripts_of_the_page_train_and_save(tmp_path):
    script = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S))
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(PAGE.parents[1])}  # the package under test
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert load(tmp_path / "sound_model").sample_rate == 8000
    assert load(tmp_path / "amp_model").knobs == {"drive": (0.0, 1.0)}
    assert load_segmenter(tmp_path / "segmenter").num_classes > 2
    sound, rate = audio_files.read(tmp_path / "clip.wav")
    assert (sound.shape, rate) == ((1, 800), 8000)
    checkpoint = torch.load(next((tmp_path / "lightning_logs").rglob("*.ckpt")), weights_only=True)
    assert checkpoint["global_step"] == 20 and checkpoint["lr_schedulers"][0]["_last_lr"] == [0.0]
