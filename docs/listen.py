"""Makes the page docs/listen.md: ``python docs/listen.py [RUN...]``.

Writes the clips and the picture of the models in the package, and for each run folder a section with the samples of the
run. Recordings are included where the data are built in: those of others may be published only as their license says
(``--recordings``). Without RUN, the sections stay as they are.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import yaml
from PIL import Image

from wavedil.audio import LiveEffect, generate, load
from wavedil.audio.data.audio_files import read
from wavedil.audio.data.overdrive import overdrive
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.audio.models.tcn import TCN
from wavedil.audio.piano_rolls import make_rolls, play
from wavedil.errors import WavedilError
from wavedil.packaged import FOLDER
from wavedil.recipe_files import known_recipes, recipe_summary
from wavedil.report.facts import QUANTITIES, quantity
from wavedil.report.run import LABELS, Media, Run, duration
from wavedil.train.previews.piano_roll import PROMPT_STEPS, SAMPLE_RATE, continue_rolls, roll_picture
from wavedil.vision import overlay, predict, read_image
from wavedil.vision.data.shapes import make_shapes

SEED = 2024  # of melodies and images; the models were trained on others


PAGE = Path(__file__).parent / "listen.md"
RUNS = re.compile(r"(<!-- samples of runs[^>]*-->\n).*(<!-- end of runs -->\n)", re.DOTALL)
MAX_ROWS, MAX_IMAGES, RUN_SECONDS, ROLL_STEPS = 6, 3, 4.0, 40  # of a run


def write(path: Path, sound: np.ndarray, rate: int) -> None:
    soundfile.write(path, np.clip(sound, -1, 1), rate, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)


def write_melodies(folder: Path, seconds: float) -> None:
    model = load(FOLDER / "pluck")
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
    model = load(FOLDER / "overdrive")
    rate = model.sample_rate
    dry = render_melody(compose(seconds, np.random.default_rng(SEED)), rate)[: round(seconds * rate)]
    write(folder / "overdrive_dry.mp3", dry, rate)
    for drive in (0.25, 1.0):
        name = f"overdrive_{round(100 * drive)}"
        write(folder / f"{name}_recording.mp3", overdrive(dry, drive, rate), rate)
        write(folder / f"{name}_model.mp3", LiveEffect(model, {"drive": drive}).process(dry.astype(np.float32)), rate)


def write_shapes(folder: Path, images: int) -> None:
    """Rows of image, ground truth and prediction, enlarged twice."""
    model, rows = load(FOLDER / "shapes"), []
    with TemporaryDirectory() as data:
        root = make_shapes(data, train=1, val=images, seed=SEED) / "val"
        for path in sorted((root / "images").iterdir()):
            image, truth = read_image(path), np.array(Image.open(root / "masks" / path.name))
            pictures = [image, *(overlay(image, labels, model.palette) for labels in (truth, predict(model, image)))]
            rows.append(np.concatenate([np.pad(picture, ((2, 2), (2, 2), (0, 0))) for picture in pictures], 1))
    stack(rows, folder / "shapes.png")


def stack(rows: Sequence[np.ndarray], path: Path) -> None:
    """Writes pictures below each other, enlarged twice."""
    gap = np.full((4, *rows[0].shape[1:]), 255, np.uint8)
    parts = [part for row in rows for part in (gap, row)][1:]
    Image.fromarray(np.concatenate(parts).repeat(2, 0).repeat(2, 1)).save(path, optimize=True)


def run_section(run: Run, folder: Path, recordings: bool, seconds: float) -> str:
    """Writes the clips or the picture of a run to ``folder``; returns the run's section of the page."""
    data = yaml.safe_load(run.config)["data"]["init_args"]
    is_built_in = data.get("root") is None and data.get("dataset") is None
    complete = recordings or is_built_in
    if sounds := run.media("samples", ".wav"):
        model = load(run.folder / "model")
        if isinstance(model, TCN) and not complete:  # its samples start with a piece of the data
            rows = list(rolls(run.name, model, folder))
        else:
            rows = list(clips(run, sounds, folder, complete, seconds))
        samples = table(rows, folder)
    elif complete:
        pictures = [np.array(Image.open(each.path)) for each in run.media("samples", ".png")[:MAX_IMAGES]]
        stack(pictures, folder / f"{run.name}.png")
        samples = f"Image, ground truth and prediction:\n\n![{run.name}](static/listen/{run.name}.png)\n"
    else:
        raise WavedilError(f"{run.folder}: images of a data set that is not built in need --recordings")
    recipe = known_recipes().get(run.name)
    summary = re.sub(r"[,;] (about )?[^,;]* minutes.*", "", recipe_summary(recipe)) + ". " if recipe else ""
    figures = [
        f"{quantity(column).removesuffix(' in %')} {QUANTITIES[column.removeprefix('valid_')][1].format(values[-1][2])}"
        for column, values in run.columns("valid_")
        if values and column.removeprefix("valid_") in QUANTITIES
    ]
    done = f"{run.rows[-1]['step']:.0f} steps in {duration(run.rows[-1]['seconds'])}"
    cores = re.search(r"\d+ CPU cores?, \d+ threads?|$", run.about["machine"])[0]
    trained = f"{run.about['parameters']} parameters, trained for {done} ({cores})"
    source = "" if is_built_in or recordings else " The recordings are not on this page."
    return f"### {run.name}\n\n{summary}{trained}. On held-out data: {', '.join(figures)}.{source}\n\n{samples}"


def clips(run: Run, sounds: Sequence[Media], folder: Path, complete: bool, seconds: float) -> Iterator[tuple[str, str]]:
    """Writes the clips of a run; yields label and name of each."""
    parts = list(LABELS)
    if not complete and any(each.part not in ("", "recording") for each in sounds):
        raise WavedilError(f"{run.folder}: samples that are made of recordings need --recordings")
    for row in list(dict.fromkeys(each.row for each in sounds))[:MAX_ROWS]:
        facts = run.row_facts("samples", row)
        knobs = [f"{name} {value:g}" for name, value in (facts.get("knobs") or {}).items()]
        found = [each for each in sounds if each.row == row and (complete or not each.part)]
        for each in sorted(found, key=lambda each: parts.index(each.part) if each.part in parts else len(parts)):
            name = f"{run.name}_{row}_{each.part or 'model'}"
            sound, rate = read(each.path)
            write(folder / f"{name}.mp3", sound[0, : round(seconds * rate)], rate)
            if (roll := each.path.with_suffix(".png")).is_file():
                (folder / f"{name}.png").write_bytes(roll.read_bytes())
            yield ", ".join([*filter(None, [facts.get("speaker")]), *knobs, LABELS.get(each.part, "model")]), name


def rolls(name: str, model: TCN, folder: Path) -> Iterator[tuple[str, str]]:
    """Writes pieces that start with built-in chords; yields label and name of each."""
    for number, roll in enumerate(continue_rolls(model, make_rolls(10).test[:2], ROLL_STEPS)):
        write(folder / f"{name}_{number}_model.mp3", play(roll, SAMPLE_RATE), SAMPLE_RATE)
        (folder / f"{name}_{number}_model.png").write_bytes(roll_picture(roll))
        yield f"model, after {PROMPT_STEPS} steps of built-in chords, in blue in the picture", f"{name}_{number}_model"


def table(rows: Sequence[tuple[str, str]], folder: Path) -> str:
    lines = ["| | |", "|---|---|"]
    for label, name in rows:
        player = f'<audio controls preload="none" src="_static/listen/{name}.mp3"></audio>'
        lines.append(f"| {label} | {player} [mp3](static/listen/{name}.mp3) |")
    for label, name in rows:
        if (folder / f"{name}.png").exists():
            lines += ["", f"![Piano roll: {label}](static/listen/{name}.png)"]
    return "\n".join(lines) + "\n"


def main(
    page: Path = PAGE, runs: Sequence[Path] = (), recordings: bool = False, seconds: float = 6.0, images: int = 3
) -> None:
    folder = page.parent / "static" / "listen"
    found = [Run(run) for run in runs]
    for run in found:
        if not (run.rows and run.media("samples", ".wav") + run.media("samples", ".png")):
            raise WavedilError(f"{run.folder} has no samples: expected a run that has ended")
    folder.mkdir(parents=True, exist_ok=True)
    write_melodies(folder, seconds)
    write_effects(folder, seconds)
    write_shapes(folder, images)
    if found:
        sections = "\n".join(run_section(run, folder, recordings, min(seconds, RUN_SECONDS)) for run in found)
        text = page.read_text(encoding="utf-8")
        page.write_text(RUNS.sub(lambda match: f"{match[1]}\n{sections}\n{match[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="*", type=Path)
    parser.add_argument("--recordings", action="store_true", help="include recordings of data that are not built in")
    arguments = parser.parse_args()
    try:
        main(PAGE, arguments.runs, arguments.recordings)
    except WavedilError as error:
        parser.exit(2, f"error: {error}\n")
