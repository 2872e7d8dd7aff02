"""``wavedil surprise``."""

import argparse
import sys

from wavedil.cli.options import add_device_option, add_model_argument
from wavedil.progress import Bar

EXAMPLES = (
    "wavedil surprise pluck melody.wav",
    "wavedil surprise runs/speech talk.flac --csv talk.csv --plot talk.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Clicks, cuts and unfamiliar sounds have more bits per sample than sounds like the training data."
    add_model_argument(parser, "runs/speech")
    parser.add_argument("input", metavar="FILE", help="an audio file; it is resampled and mixed to mono")
    parser.add_argument("--speaker", metavar="NAME", help="one of the model's speakers")
    parser.add_argument(
        "--window-ms", type=float, default=10.0, metavar="MS", help="length of a window in milliseconds (default 10)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write the start of each window and its bits per sample")
    parser.add_argument("--plot", metavar="FILE", help="write a plot to a .png, .svg or .pdf file")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> None:
    from wavedil.audio.models.wavenet import WaveNet
    from wavedil.audio.surprise import draw, surprise_of_file, write_csv
    from wavedil.figures import check_figure_path
    from wavedil.outputs import check_outputs, claim_files
    from wavedil.weights import load

    outputs = [path for path in (arguments.csv, arguments.plot) if path is not None]
    check_outputs(outputs, [arguments.input, arguments.model])
    if arguments.plot is not None:
        check_figure_path(arguments.plot)
    model = load(arguments.model, arguments.device, expect=WaveNet)
    options = {"speaker": arguments.speaker, "window_ms": arguments.window_ms}
    with claim_files(outputs, [arguments.input, arguments.model]):
        with Bar("measuring", model.sample_rate) as bar:
            result, sound = surprise_of_file(model, arguments.input, **options, progress=bar.update)
        for path in outputs:
            if path == arguments.csv:
                write_csv(result, path)
            else:
                draw(result, sound, path, arguments.input)
            print(f"wrote {path}", file=sys.stderr)
    print(result.as_json() if arguments.json else result)
