"""``wavedil inpaint``."""

import argparse
import json

from wavedil.cli.options import add_device_option, add_model_argument
from wavedil.progress import Bar

EXAMPLES = (
    "wavedil inpaint runs/speech talk.wav mended.wav --gap 1.25:1.27",
    "wavedil inpaint runs/speech talk.wav mended.wav --gap 0.5:0.51 --gap 2.1:2.15 --candidates 128",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Gaps can be up to 100 ms long. All samples outside the gaps are copied unchanged, at the same rate and bit "
        "depth. The ends of a gap, and short gaps, are filled mostly by linear prediction."
    )
    add_model_argument(parser, "runs/speech")
    parser.add_argument("input", metavar="IN", help="an audio file at any sample rate")
    parser.add_argument(
        "output", metavar="OUT", help="the audio file to write; its format must support the sample format of IN"
    )
    parser.add_argument(
        "--gap",
        metavar="START:STOP",
        type=_gap,
        action="append",
        required=True,
        help="a gap to fill, in seconds, e.g. 1.25:1.27; can be repeated",
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=32,
        metavar="N",
        help="number of generated candidates, of which the one that best fits the audio after the gap is used "
        "(default 32); 0: linear prediction only",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.7, metavar="T", help="sampling temperature (default 0.7)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--speaker", metavar="NAME", help="one of the model's speakers")
    parser.add_argument("--engine", default="auto", metavar="NAME", help="auto, numba or torch (default auto)")
    add_device_option(parser)


def _gap(text: str) -> tuple[float, float]:
    try:
        start, stop = map(float, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected START:STOP in seconds, e.g. 1.25:1.27") from None
    return start, stop


def run(arguments: argparse.Namespace) -> None:
    from wavedil.audio.inpainting import inpaint_file
    from wavedil.audio.models.wavenet import WaveNet
    from wavedil.outputs import check_outputs
    from wavedil.weights import load

    check_outputs([arguments.output], [arguments.input, arguments.model])
    model = load(arguments.model, arguments.device, expect=WaveNet)
    names = ("candidates", "temperature", "seed", "speaker", "engine")
    options = {name: getattr(arguments, name) for name in names}
    with Bar("inpainting") as bar:
        result = inpaint_file(model, arguments.input, arguments.output, arguments.gap, **options, progress=bar.update)
    print(json.dumps(result, indent=2))
