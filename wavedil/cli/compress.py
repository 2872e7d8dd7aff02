"""``wavedil compress``."""

import argparse
import json

from wavedil.cli.options import add_model_argument
from wavedil.progress import Bar

EXAMPLES = (
    "wavedil compress runs/speech talk.flac talk.wdil",
    "wavedil compress runs/speakers clip.wav clip.wdil --speaker theo",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The codes that the model quantizes the audio to are compressed without loss: 16-bit audio is restored exactly "
        "if the model has 65536 linear codes, else with the model's quantization. wavedil expand needs the same model."
    )
    add_model_argument(parser, "runs/speech")
    parser.add_argument("input", metavar="IN", help="an audio file at the sample rate of the model")
    parser.add_argument("output", metavar="OUT", help="the compressed file to write, e.g. talk.wdil")
    parser.add_argument("--speaker", metavar="NAME", help="one of the model's speakers")
    add_engine_option(parser)


def add_engine_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="auto", metavar="NAME", help="auto, numba or torch (default auto)")


def run(arguments: argparse.Namespace) -> None:
    from wavedil.audio.compression import compress_file
    from wavedil.audio.models.wavenet import WaveNet
    from wavedil.outputs import check_outputs
    from wavedil.weights import load

    check_outputs([arguments.output], [arguments.input, arguments.model])
    model = load(arguments.model, expect=WaveNet)
    options = {"speaker": arguments.speaker, "engine": arguments.engine}
    with Bar("compressing", model.sample_rate) as bar:
        result = compress_file(model, arguments.input, arguments.output, **options, progress=bar.update)
    print(json.dumps(result, indent=2))
