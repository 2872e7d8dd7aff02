"""Small run folders as training writes them, without training."""

import json

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.report import add_captions

CONFIG = """seed_everything: 0
trainer:
  max_steps: 100
  max_time: 00:00:04:00
  max_epochs: null
model:
  class_path: wavedil.train.AudioModule
"""


def tone(hz, seconds=1.0, rate=8000):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def write_clip(path, sound, rate=8000):
    audio_files.write(path, sound[None], rate)


def make_run(folder, steps=100, seconds=60.0, valid="bits", points=3):
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    rows = [f"step,seconds,train_loss,valid_{valid},learning_rate,samples_per_second"]
    for index in range(1, points + 1):
        share = index / points
        rows.append(f"{round(steps * share)},{seconds * share:.1f},{3 / index:.4f},{2 / index:.4f},0.001,40000")
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    about = {"model": "12 parameters", "data": "endless tones", "receptive_field": "9 samples = 1.1 ms at 8000 Hz"}
    (folder / "about.json").write_text(json.dumps(about | {"sample_rate": 8000, "versions": {"torch": "2"}}))
    return folder


def make_vocoder_run(folder, **options):
    """Two clips beside their originals, and previews of one at two steps."""
    run = make_run(folder, **options)
    for index in range(2):
        write_clip(run / "samples" / f"sample_{index:03d}.wav", tone(200 + 100 * index))
        write_clip(run / "samples" / f"sample_{index:03d}_original.wav", tone(210 + 100 * index))
        add_captions(run / "samples", {f"row_{index}": {"file": f"voice{index}.flac", "speaker": "anna", "seed": 0}})
    for step in (10, 20):
        write_clip(run / "previews" / f"step_{step:06d}_0.wav", tone(step * 10, 0.5))
    write_clip(run / "previews" / "target_0.wav", tone(210, 0.5))
    return run


def make_effect_run(folder):
    run = make_run(folder, valid="esr")
    dry = tone(220) * np.linspace(0, 1.9, 8000, dtype=np.float32)
    sounds = {"1_input": dry, "2_target": np.tanh(2 * dry) / 2, "3_output": np.tanh(1.9 * dry) / 2}
    for name, sound in sounds.items():
        write_clip(run / "samples" / f"sample_000_{name}.wav", sound)
    add_captions(run / "samples", {"row_0": {"file": "guitar.wav", "knobs": {"drive": 0.5}}})
    segments = [{"knobs": {"drive": knob}, "error": knob, "signal": 10.0} for knob in (0.0, 0.5, 0.5, 1.0)]
    (run / "validation.json").write_text(json.dumps({"step": 100, "segments": segments}))
    return run


def make_image_run(folder, names=("sky", "road"), size=24):
    from wavedil.vision.data.images import write_image

    run = make_run(folder, valid="mean_iou")
    about = json.loads((run / "about.json").read_text())
    (run / "about.json").write_text(
        json.dumps(about | {"classes": list(names), "colors": [[0, 90, 200], [230, 160, 0]]})
    )
    for name in ("samples/image_000", "samples/image_001", "previews/step_000010_0", "previews/step_000020_0"):
        panel = np.full((size, 3 * size + 8, 3), 255, np.uint8)
        panel[:, :size], panel[:, size + 4 : 2 * size + 4], panel[:, 2 * size + 8 :] = 90, 60, 60
        panel[: size // 2, 2 * size + 8 :] = 200
        write_image(run / f"{name}.png", panel)
    add_captions(run / "samples", {"image_000": {"file": "street.png"}})
    confusion = [[0, 0, 30], [0, 1, 10], [1, 1, 60]]
    (run / "validation.json").write_text(json.dumps({"step": 100, "confusion": confusion}))
    return run
