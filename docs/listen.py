"""Writes the clips and the picture of docs/listen.md with the models of the package: ``python docs/listen.py``."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from PIL import Image

from wavedil.audio import LiveEffect, generate, load
from wavedil.audio.data.overdrive import overdrive
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.vision import overlay, predict, read_image
from wavedil.vision.data.shapes import make_shapes

SEED = 2024  # of melodies and images; the models were trained on others


def write(path: Path, sound: np.ndarray, rate: int) -> None:
    soundfile.write(path, np.clip(sound, -1, 1), rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.4)


def write_melodies(folder: Path, seconds: float) -> None:
    model = load("pluck")
    rate = model.sample_rate
    melody = render_melody(compose(seconds, np.random.default_rng(SEED)), rate)[: round(seconds * rate)]
    write(folder / "pluck_recording.mp3", melody, rate)
    sound = generate(model, len(melody), num=2, seed=1)
    for number, clip in enumerate(sound[:, 0].numpy(), 1):
        write(folder / f"pluck_model_{number}.mp3", clip, rate)
    prime = melody[: len(melody) // 3]
    rest = generate(model, len(melody) - len(prime), prime=prime[None, None], seed=1)[0, 0].numpy()
    write(folder / "pluck_continued.mp3", np.concatenate([prime, rest]), rate)


def write_effects(folder: Path, seconds: float) -> None:
    model = load("overdrive")
    rate = model.sample_rate
    dry = render_melody(compose(seconds, np.random.default_rng(SEED)), rate)[: round(seconds * rate)]
    write(folder / "overdrive_dry.mp3", dry, rate)
    for drive in (0.25, 1.0):
        name = f"overdrive_{round(100 * drive)}"
        write(folder / f"{name}_recording.mp3", overdrive(dry, drive, rate), rate)
        write(folder / f"{name}_model.mp3", LiveEffect(model, {"drive": drive}).process(dry.astype(np.float32)), rate)


def write_shapes(folder: Path, images: int) -> None:
    """Rows of image, ground truth and prediction, enlarged twice."""
    model, rows = load("shapes"), []
    with TemporaryDirectory() as data:
        root = make_shapes(data, train=1, val=images, seed=SEED) / "val"
        for path in sorted((root / "images").iterdir()):
            image, truth = read_image(path), np.array(Image.open(root / "masks" / path.name))
            pictures = [image, *(overlay(image, labels, model.palette) for labels in (truth, predict(model, image)))]
            rows.append(np.concatenate([np.pad(picture, ((2, 2), (2, 2), (0, 0))) for picture in pictures], 1))
    picture = np.concatenate(rows).repeat(2, 0).repeat(2, 1)
    Image.fromarray(picture).save(folder / "shapes.png")


def main(folder: Path, seconds: float = 6.0, images: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_melodies(folder, seconds)
    write_effects(folder, seconds)
    write_shapes(folder, images)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "static" / "listen")
