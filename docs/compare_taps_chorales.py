"""Regular, learned and merged taps in a TCN, for docs/measurements.md: python docs/compare_taps_chorales.py ROLLS.mat

Prints the negative log-likelihood of the validation and test pieces in nats per step, of networks with the same number
of weights that are trained for the same number of steps on the same batches.
"""

import argparse
import time

import numpy as np
import torch
from tap_kinds import KINDS, learned_layers, replace_taps, train

from wavedil.audio.models.tcn import TCN
from wavedil.audio.piano_rolls import evaluate_rolls, read_rolls, roll_nll
from wavedil.core import fold_dilations
from wavedil.train.piano_roll import RollBatches

CHANNELS, DILATIONS, BATCH, WINDOW = 128, "1,2,4", 8, 16


def train_network(network: TCN, batches: list[dict[str, torch.Tensor]], seed: int) -> None:
    def loss(step: int) -> torch.Tensor:
        nats, count = roll_nll(network, batches[step]["roll"], batches[step]["mask"])
        return nats / count

    torch.manual_seed(seed)
    train(network, len(batches), 2e-3, 0.4, loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rolls", help="a .mat file, as of wavedil train -c jsb --data.root")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rolls = read_rolls(arguments.rolls)
    prior = torch.from_numpy(np.concatenate(rolls.train).mean(0))
    for seed in arguments.seeds:
        source = RollBatches(rolls.train, BATCH, 6, seed, arguments.steps // 2)
        batches = [source[index] for index in range(arguments.steps)]
        for kind in arguments.kinds:
            torch.manual_seed(seed)
            network = TCN(88, 88, CHANNELS, DILATIONS, 2, dropout=0.5, input_dropout=0.1, gated=True, weight_norm=False)
            network.set_prior(prior)
            parts = [part for layer in network.stack.layers for part in (layer.first, layer.second)]
            # Chords change at once, so a position needs the gradients of the Gaussian interpolation.
            replace_taps(parts, kind, window=WINDOW, interpolation="gaussian", sigma=1.0)
            start = time.process_time()
            train_network(network, batches, seed)
            seconds = time.process_time() - start
            fold_dilations(network.eval())
            valid, test = (evaluate_rolls(network, rolls).nll_nats_per_step for rolls in (rolls.valid, rolls.test))
            print(
                f"seed {seed}, {kind}: valid {valid:.3f}, test {test:.3f} after {seconds:.0f} s of CPU time", flush=True
            )
            if kind == "learned":
                delays = [sorted((WINDOW - 1 - layer.offsets[0]).tolist()) for _, layer in learned_layers(network)]
                print(f"delays: {delays}", flush=True)


if __name__ == "__main__":
    main()
