"""``wavedil live``."""

import argparse
import json
import sys
from collections.abc import Iterator

from wavedil.cli.options import add_device_option, add_effect_options, add_model_argument
from wavedil.errors import WavedilError
from wavedil.progress import is_quiet

EXAMPLES = (
    "wavedil live --list-devices",
    'wavedil live runs/amp --input-device "USB Audio" --block 64 --knob drive=0.7',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "To change a knob while it plays, type e.g. gain=0.7 and Enter. Ctrl-C ends it and prints a summary as JSON. "
        "Use headphones, or start at a low volume: a microphone near a loudspeaker causes feedback."
    )
    add_model_argument(parser, "runs/amp", nargs="?", nam=True)  # --list-devices needs none
    add_effect_options(parser)
    parser.add_argument("--input-device", metavar="NAME", help="number or name (default: the system's default)")
    parser.add_argument("--output-device", metavar="NAME", help="number or name (default: the system's default)")
    parser.add_argument("--list-devices", action="store_true", help="print the devices and exit")
    parser.add_argument(
        "--input-channel", type=int, default=1, metavar="N", help="channel of the input to process (default 1)"
    )
    parser.add_argument(
        "--block",
        type=int,
        default=128,
        metavar="N",
        help="samples per block, 16 to 8192; larger blocks add latency (default 128)",
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="end after this time (default: at Ctrl-C)")
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> None:
    from wavedil.audio.effects.devices import device_table, import_sounddevice
    from wavedil.audio.effects.play import play
    from wavedil.audio.models.effect_model import EffectModel, parse_knobs
    from wavedil.weights import load

    if arguments.list_devices:
        print(device_table(import_sounddevice()))
        return
    if arguments.model is None:
        raise WavedilError(
            "MODEL is missing: expected a model folder, a run folder, a .nam file or the name of a packaged model"
        )
    model = load(arguments.model, arguments.device, expect=EffectModel)
    if arguments.quality is not None:
        model = model.at_quality(arguments.quality)
    terminal = _Terminal()
    result = play(
        model,
        parse_knobs(arguments.knob, "--knob "),
        input_device=arguments.input_device,
        output_device=arguments.output_device,
        input_channel=arguments.input_channel,
        block=arguments.block,
        seconds=arguments.seconds,
        lines=_typed_lines(),
        show=terminal.show if sys.stderr.isatty() and not is_quiet() else None,
        report=terminal.report,
    )
    terminal.end()
    print(json.dumps(result, indent=2))


class _Terminal:
    """The meters on the line above the one that the user types in, and messages above both."""

    shown = False

    def show(self, meters: str) -> None:
        if not self.shown:
            print(file=sys.stderr)
        self.shown = True
        print(f"\x1b7\x1b[1A\r{meters}\x1b[K\x1b8", end="", file=sys.stderr, flush=True)  # back to the cursor's place

    def report(self, message: str) -> None:
        print(f"error: {message}", end="\n\n" if self.shown else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.shown:
            print(file=sys.stderr)


def _typed_lines() -> Iterator[str]:
    """Lines of standard input, unbuffered: at its end Python waits for a thread that reads a buffer."""
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):  # not a file
        yield from sys.stdin
        return
    with open(number, "rb", buffering=0, closefd=False) as file:
        for line in file:
            yield line.decode(errors="replace")
