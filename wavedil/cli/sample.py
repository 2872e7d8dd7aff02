"""``wavedil sample``. A model's class names the Python function that generates files: ``sampling()``.

The function is ``f(model, out, *, progress=None, **options)``; its keyword-only arguments are those options of the
shell that it takes, and its result is a dictionary for JSON.
"""

import argparse
import json
import os
from pathlib import Path

from wavedil.cli import options
from wavedil.cli.model_function import ModelFunction
from wavedil.progress import Bar

EXAMPLES = (
    "wavedil sample runs/pluck --seconds 4 --num 8 --temperature 0.9",
    "wavedil sample runs/speech --prime start.wav --seed 3 --out continued.wav",
)
_SAMPLING = ModelFunction("sampling", "generates nothing: expected a WaveNet, or a TCN of piano rolls")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "File names contain the speaker, seed and temperature: clip_000_theo_seed1_t0.8.wav. Existing files are kept: "
        "a number is added to a name that exists. OUT/index.html has a player for each clip."
    )
    options.add_model_argument(parser)
    clips = parser.add_argument_group("clips")
    # Options that are not given are absent, so that the defaults of the model's function apply.
    clips.argument_default = argparse.SUPPRESS
    clips.add_argument("--seconds", type=float, help="length of each clip (default: the length of --condition, else 2)")
    clips.add_argument("--steps", type=int, metavar="N", help="piano rolls: length in steps of 0.25 s (default 64)")
    clips.add_argument("--num", type=int, metavar="N", help="number of clips (default 1)")
    clips.add_argument(
        "--seed", type=int, metavar="N", help="random seed; clip i depends only on the seed and i (default 0)"
    )
    clips.add_argument(
        "--out",
        default="samples",
        help="output folder, or an output file for a single clip, e.g. clip.wav (default samples)",
    )
    clips.add_argument("--prime", metavar="FILE", help="a recording to continue; for piano rolls a .mid or .mat file")
    clips.add_argument("--with-prime", action="store_true", help="include this recording at the start of each clip")
    clips.add_argument(
        "--condition", metavar="FILE", help="an audio file from which features are computed, or a .npy file of features"
    )
    clips.add_argument("--speaker", metavar="NAME", help="one of the model's speakers")
    draw = parser.add_argument_group("sampling")
    draw.argument_default = argparse.SUPPRESS
    draw.add_argument("--temperature", type=float, metavar="X", help="below 1 favors likely codes (default 1)")
    draw.add_argument("--top-k", type=int, metavar="N", help="sample only from the N most likely codes")
    draw.add_argument(
        "--top-p",
        type=float,
        metavar="X",
        help="nucleus sampling: only from the most likely codes with this total probability",
    )
    draw.add_argument(
        "--guidance",
        type=float,
        metavar="X",
        help="scale of classifier-free guidance: above 1 strengthens condition and speaker (default 1)",
    )
    speed = parser.add_argument_group("speed")
    speed.argument_default = argparse.SUPPRESS
    options.add_device_option(speed)
    speed.add_argument("--engine", metavar="NAME", help="auto, torch, graphs, numba or triton (default auto)")
    speed.add_argument(
        "--precision", help="of weights and activations: fp32 (default), bf16 (numba, triton) or int8 (numba)"
    )
    speed.add_argument("--threads", type=int, metavar="N", help="CPU threads of the numba engine: 1 or 2 (default 1)")
    speed.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="for many clips: generate N at a time. Repeat the command to continue after an interruption; run it "
        "several times in parallel to share the work",
    )


def run(arguments: argparse.Namespace) -> None:
    from wavedil.weights import load

    is_folder = not Path(arguments.out).suffix or os.path.isdir(arguments.out)
    folder = arguments.out if is_folder else os.path.dirname(arguments.out) or "."
    options.check_writable(folder, "--out", arguments.model)
    model = load(arguments.model, arguments.device)
    _SAMPLING.check_options(model, arguments)
    with Bar("sampling", getattr(model, "sample_rate", None)) as bar:
        result = _SAMPLING(model, arguments, arguments.out, progress=bar.update)
    options.print_result(json.dumps(result, indent=2))
