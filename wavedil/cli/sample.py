"""``wavedil sample``."""

import argparse
import json

from wavedil.cli.options import add_device_option, check_writable, print_result
from wavedil.progress import Bar

_OPTIONS = ("seconds", "num", "seed", "temperature", "top_k", "top_p", "prime", "condition", "speaker", "guidance")
_OPTIONS += ("engine", "precision", "threads", "batch")


EXAMPLES = (
    "wavedil sample runs/pluck --seconds 4 --num 8 --temperature 0.9",
    "wavedil sample runs/speech --prime start.wav --seed 3 --out continued.wav",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, e.g. RUN/model")
    parser.add_argument("--seconds", type=float, help="length of each clip (default: that of the condition, or 2)")
    parser.add_argument("--num", type=int, default=1, help="number of clips (default 1)")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed; clip i depends only on the seed and i (default 0)"
    )
    parser.add_argument("--out", default="samples", help="folder for the files (default samples)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="values below 1 make likely codes more likely (default 1)"
    )
    parser.add_argument("--top-k", type=int, help="draw from the k most likely codes only")
    parser.add_argument("--top-p", type=float, help="draw from the most likely codes of this total probability")
    parser.add_argument("--prime", metavar="FILE", help="a recording that the clips continue")
    parser.add_argument(
        "--condition", metavar="FILE", help="an audio file to compute features of, or a .npy file of features"
    )
    parser.add_argument("--speaker", metavar="NAME", help="one of the model's speakers")
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="above 1 strengthens condition and speaker (default 1)"
    )
    parser.add_argument("--engine", default="auto", help="auto, torch, graphs, numba or triton (default auto)")
    parser.add_argument("--precision", default="fp32", help="of the weights: fp32 (default), or bf16 (numba, triton)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the numba engine: 1 or 2 (default 1)")
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="generate N clips at a time; repeat the command to continue it, start it several times to share the work",
    )
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> None:
    from wavedil.audio.generation.sample_files import sample_files
    from wavedil.audio.models.wavenet import WaveNet
    from wavedil.weights import load

    check_writable(arguments.out, "--out", arguments.model)
    model = load(arguments.model, arguments.device, expect=WaveNet)
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    with Bar("sampling", model.sample_rate) as bar:
        result = sample_files(model, arguments.out, progress=bar.update, **options)
    print_result(json.dumps(result, indent=2))
