"""Training with a plain Trainer: the scripts of docs/lightning.md, and resuming."""

import os
import re
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from wavedil.audio import WaveNet, load
from wavedil.audio.data import audio_files
from wavedil.train import AudioData, AudioModule
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


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and intervals
def test_a_plain_trainer_resumes_exactly(tmp_path):
    def fit(ckpt_path=None):
        torch.manual_seed(0)
        module = AudioModule(WaveNet(8, 8, "1,2", sample_rate=4000), ema_decay=0.9)
        data = AudioData(crop=200, batch_size=2, built_in_seconds=20, valid_seconds=0.2)
        checkpoints = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        options |= {"accelerator": "cpu", "max_steps": 7, "val_check_interval": 5, "check_val_every_n_epoch": None}
        L.Trainer(default_root_dir=tmp_path, callbacks=[checkpoints], **options).fit(module, data, ckpt_path=ckpt_path)
        return module.state_dict()

    expected, resumed = fit(), fit(str(tmp_path / "step=3.ckpt"))
    assert expected.keys() == resumed.keys() and all(torch.equal(resumed[key], expected[key]) for key in expected)
