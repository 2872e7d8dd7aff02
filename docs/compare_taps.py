"""Regular, learned and merged taps in an effect model, for docs/measurements.md: python docs/compare_taps.py RECORDINGS

Prints the error-to-signal ratio on the held-out part, of networks with the same number of weights that are trained for
the same number of steps on the same crops.
"""

import argparse
import time

import torch

from wavedil import LearnedDilation, MergeableDilations
from wavedil.audio import Effect
from wavedil.audio.data.recording_files import find_recordings
from wavedil.audio.data.recordings import split_recordings
from wavedil.audio.effects.evaluation import evaluate_pairs
from wavedil.audio.effects.losses import ESR
from wavedil.core import fold_dilations

KINDS = ("regular", "learned", "mergeable")
CHANNELS, DILATIONS, BATCH, CROP = 8, "1..512", 2, 11025


def make_network(kind: str, sample_rate: int) -> Effect:
    network = Effect(
        CHANNELS, CHANNELS, DILATIONS, time_constants=[0.05, 0.005], charges=[100.0, 0.0], sample_rate=sample_rate
    )
    for layer in network.stack.layers if kind != "regular" else ():
        old = layer.conv
        options = {"dilation": old.dilation, "padding": "causal"}
        if kind == "learned":
            layer.conv = LearnedDilation(1, old.in_channels, old.out_channels, 3, **options)
            layer.conv.load_state_dict({**layer.conv.state_dict(), **old.state_dict()})
        else:  # the branches have no taps but those of the regular convolution
            branches = [(2, old.dilation), (1, 1)]
            layer.conv = MergeableDilations(1, old.in_channels, old.out_channels, 3, branches=branches, **options)
    return network


def train(network: Effect, segments: list, steps: int, seed: int) -> None:
    """Adam with a learning rate that falls to zero. Learned taps are snapped after three quarters of the steps."""
    torch.manual_seed(seed)
    groups = [{"params": [], "lr": 6e-3}]
    for name, parameter in network.named_parameters():
        if name.endswith("positions"):  # each may pass through its window
            window = network.get_submodule(name.rpartition(".")[0]).window[0]
            groups.append({"params": [parameter], "lr": 2 * window / steps})
        else:
            groups[0]["params"].append(parameter)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    loss = ESR(0.01)
    for step in range(steps):
        if step == steps * 3 // 4:
            for layer in network.stack.layers:
                if isinstance(layer.conv, LearnedDilation):
                    layer.conv.snap()
        drawn = [segments[i] for i in torch.randint(len(segments), (BATCH,))]
        x, y = (
            torch.stack([torch.from_numpy(getattr(one, name)) for one in drawn])[:, None]
            for name in ("input", "target")
        )
        optimizer.zero_grad()
        loss(network(x, skip=x.shape[2] - CROP), y[:, :, -CROP:]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()


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
            train(network, segments, arguments.steps, seed)
            seconds = time.process_time() - start
            fold_dilations(network.eval())
            esr = evaluate_pairs(network, held_out).esr_percent
            print(f"seed {seed}, {kind}: {esr:.2f} % after {seconds:.0f} s of CPU time", flush=True)
            if kind == "learned":
                delays = [
                    sorted((layer.conv.window[0] - 1 - layer.conv.offsets[0]).tolist())
                    for layer in network.stack.layers
                ]
                print(f"delays: {delays}", flush=True)


if __name__ == "__main__":
    main()
