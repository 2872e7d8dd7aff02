"""The shell's commands for models of piano rolls. As in cli.py, heavy imports are inside the functions."""

from __future__ import annotations

import argparse
from typing import Any

from wavedil.cli.vision import refuse_options
from wavedil.errors import WavedilError
from wavedil.progress import Bar


def evaluate(model: Any, arguments: argparse.Namespace) -> tuple[Any, str]:
    """The result, and how a terminal shows it."""
    from wavedil.audio.piano_rolls import KEYS, evaluate_rolls, read_rolls

    refuse_options(arguments, "TCN")
    if arguments.validation or arguments.exclude:
        given = "--validation" if arguments.validation else "--exclude"
        raise WavedilError(f"{given} is for sound: a file of piano rolls has its own test and validation pieces")
    ins, outs = model.config["in_channels"], model.config["out_channels"]
    if (ins, outs) != (KEYS, KEYS):
        raise WavedilError(
            f"{arguments.model} takes {ins} channels and gives {outs}: expected {KEYS} of each, for piano rolls"
        )
    rolls = read_rolls(arguments.data)
    pieces = rolls.valid if arguments.held_out else rolls.test
    bar = Bar("evaluating", len(pieces), "piece")
    result = evaluate_rolls(model, pieces, bar.to)
    bar.close()
    text = f"{result.nll_nats_per_step:.4f} nats per step over {result.count} steps of {result.pieces} pieces"
    return result, f"{text}\n({result.definition})"
