"""Training with a plain Trainer resumes exactly; tests/test_docs.py runs the scripts of docs/lightning.md."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from wavedil.audio import WaveNet
from wavedil.train import AudioData, AudioModule


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
