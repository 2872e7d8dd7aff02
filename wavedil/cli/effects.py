"""The shell's commands for paired models. As in cli.py, heavy imports are inside the functions."""

from __future__ import annotations

import argparse
import json
from typing import Any

from wavedil.cli.vision import refuse_options
from wavedil.errors import WavedilError
from wavedil.progress import Bar


def process(arguments: argparse.Namespace, _: list[str]) -> None:
    from wavedil.audio.effects.process import process_file
    from wavedil.audio.models.effect_model import EffectModel
    from wavedil.weights import load

    model = load(arguments.model, arguments.device, expect=EffectModel)
    bar = Bar("processing", 0, "sample")
    result = process_file(
        model,
        arguments.input,
        arguments.output,
        knobs(arguments.knob),
        resample=arguments.resample,
        subtype=arguments.subtype,
        progress=bar.of,
    )
    bar.close()
    print(json.dumps(result, indent=2))


def evaluate(model: Any, arguments: argparse.Namespace) -> tuple[Any, str]:
    """The result, and how a terminal shows it."""
    from wavedil.audio.data.recordings import find_recordings, read_segments, split
    from wavedil.audio.effects.process import evaluate_pairs

    refuse_options(arguments, type(model).__name__)
    if arguments.exclude:
        raise WavedilError("--exclude is not for models of pairs: take the recordings out of the table or folder")
    recordings, rate = find_recordings(arguments.data), model.sample_rate
    if arguments.held_out or arguments.validation:
        segments = split(
            recordings,
            rate,
            context=model.receptive_field - 1,
            validation=arguments.validation,
            resample=arguments.resample,
        )[1]
    else:
        segments = [segment for each in recordings for segment in read_segments(each, rate, arguments.resample)]
    bar = Bar("evaluating", sum(len(segment) - segment.skip for segment in segments), "sample")
    result = evaluate_pairs(model, segments, bar.to)
    bar.close()
    lines = [f"{name:<20} {esr:.3f} %" for name, esr in result.settings.items()] if len(result.settings) > 1 else []
    lines.append(f"ESR {result.esr_percent:.3f} % over {result.count} samples of {result.segments} segments")
    return result, "\n".join([*lines, f"({result.definition})"])


def knobs(settings: list[str]) -> dict[str, float]:
    """``["gain=0.5"]`` as a dictionary."""
    values: dict[str, float] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            raise WavedilError(f"--knob is {setting!r}: expected NAME=NUMBER, e.g. gain=0.5") from None
    return values


def add_process_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, e.g. runs/amp/model")
    parser.add_argument("input", metavar="IN", help="a sound file of any length; each channel is processed by itself")
    parser.add_argument("output", metavar="OUT", help="the file to write; its suffix decides the format")
    parser.add_argument(
        "--knob", metavar="NAME=VALUE", action="append", default=[], help="set a knob, e.g. gain=0.5; once for each"
    )
    parser.add_argument("--resample", action="store_true", help="bring a file of another rate to the model's")
    parser.add_argument("--subtype", help="coding, e.g. PCM_24 or FLOAT (default: 16 bit where the format has it)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda … (default cpu)")
