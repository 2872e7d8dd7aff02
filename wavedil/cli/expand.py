"""``wavedil expand``."""

import argparse
import json

from wavedil.cli.compress import add_engine_option
from wavedil.cli.options import add_model_argument
from wavedil.progress import Bar

EXAMPLES = (
    "wavedil expand runs/speech talk.wdil talk.wav",
    "wavedil expand runs/speakers clip.wdil clip.flac --engine torch",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser, "runs/speech")
    parser.add_argument("input", metavar="IN", help="a file that wavedil compress wrote with this model")
    parser.add_argument("output", metavar="OUT", help="the audio file to write; its suffix sets the format")
    add_engine_option(parser)


def run(arguments: argparse.Namespace) -> None:
    from wavedil.audio.compression import expand_file
    from wavedil.audio.models.wavenet import WaveNet
    from wavedil.outputs import check_outputs
    from wavedil.weights import load

    check_outputs([arguments.output], [arguments.input, arguments.model])
    model = load(arguments.model, expect=WaveNet)
    with Bar("expanding", model.sample_rate) as bar:
        result = expand_file(model, arguments.input, arguments.output, engine=arguments.engine, progress=bar.update)
    print(json.dumps(result, indent=2))
