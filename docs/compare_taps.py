"""Regular, learned and merged taps in an effect model, for docs/measurements.md: python docs/compare_taps.py RECORDINGS

Prints the error-to-signal ratio on the held-out part, of networks with the same number of weights that are trained for
the same number of steps on the same crops.
"""

import argparse
import time

import torch
from tap_kinds import KINDS, learned_layers, replace_taps, train

from wavedil.audio import Effect
from wavedil.audio.data.recording_files import find_recordings
from wavedil.audio.data.recordings import split_recordings
from wavedil.audio.effects.evaluation import evaluate_pairs
from wavedil.audio.effects.losses import ESR
from wavedil.core import fold_dilations

CHANNELS, DILATIONS, BATCH, CROP = 8, "1..512", 2, 11025


def make_network(kind: str, sample_rate: int) -> Effect:
    network = Effect(
        CHANNELS, CHANNELS, DILATIONS, time_constants=[0.05, 0.005], charges=[100.0, 0.0], sample_rate=sample_rate
    )
    replace_taps(network.stack.layers, kind)
    return network


def train_network(network: Effect, segments: list, steps: int, seed: int) -> None:
    esr = ESR(0.01)

    def loss(step: int) -> torch.Tensor:
        drawn = [segments[i] for i in torch.randint(len(segments), (BATCH,))]
        x, y = (
            torch.stack([torch.from_numpy(getattr(one, name)) for one in drawn])[:, None]
            for name in ("input", "target")
        )
        return esr(network(x, skip=x.shape[2] - CROP), y[:, :, -CROP:])

    torch.manual_seed(seed)
    train(network, steps, 6e-3, 1.0, loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", help="a table of recordings, as of wavedil train -c amp --data.root")
    parser.add_argument("--sample-rate", type=int, default=44100)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recordings = find_recordings(arguments.recordings)
    segments, held_out, _ = split_recordings(recordings, arguments.sample_rate, context=CROP)
    for seed in arguments.seeds:
        for kind in arguments.kinds:
            torch.manual_seed(seed)
            network = make_network(kind, arguments.sample_rate)
            start = time.process_time()
            train_network(network, segments, arguments.steps, seed)
            seconds = time.process_time() - start
            fold_dilations(network.eval())
            esr = evaluate_pairs(network, held_out).esr_percent
            print(f"seed {seed}, {kind}: {esr:.2f} % after {seconds:.0f} s of CPU time", flush=True)
            if kind == "learned":
                delays = [
                    sorted((layer.window[0] - 1 - layer.offsets[0]).tolist()) for _, layer in learned_layers(network)
                ]
                print(f"delays: {delays}", flush=True)


if __name__ == "__main__":
    main()
