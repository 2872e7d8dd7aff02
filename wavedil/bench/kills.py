"""``wavedil bench kills``: kills trainings and checks that the resumed ones end as if nothing had happened.

A tiny run of each kind of training is first trained without interruption. Then runs of the same recipe are killed, at
a file operation in the run folder or after a random time, continued by ``--resume auto``, killed again, and at last
finished. Weights must be equal in every bit, and samples in every byte. Exits with 1 if one differs. Needs ``fork``.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from wavedil.bench.runner import fault_row
from wavedil.cli import main as wavedil
from wavedil.errors import WavedilError, check_positive

STEPS = 20
_ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 5e-3}}
_WAVENET = {"channels": 8, "skip_channels": 8, "dilations": "1..8", "sample_rate": 8000}
_MELS = {"sample_rate": 8000, "n_mels": 4, "n_fft": 64, "hop_length": 40}
_MEL_CONDITION = {
    "class_path": "wavedil.audio.NearestUpsampling",
    "init_args": {"features": {"class_path": "wavedil.audio.LogMel", "init_args": _MELS}},
}
_SOUND_DATA = {"crop": 400, "batch_size": 2, "valid_seconds": 0.2, "built_in_seconds": 30}
_SHORT = {"previews": {"first": 4, "every": 6, "seconds": 0.02}, "samples": {"num": 2, "seconds": 0.02}}


def _recipe(task: str, data: str, model: dict, arguments: dict, trainer: dict | None = None, **rest: dict) -> dict:
    return {
        "model": {"class_path": f"wavedil.train.{task}", "init_args": {"optimizer": _ADAM, "warmup_steps": 3} | model},
        "data": {"class_path": f"wavedil.train.{data}", "init_args": arguments},
        "trainer": {
            "accelerator": "cpu",
            "precision": "32-true",
            "max_steps": STEPS,
            "val_check_interval": 5,
            "gradient_clip_val": 1.0,
        }
        | (trainer or {}),
        **rest,
    }


def _network(name: str, arguments: dict) -> dict:
    return {"network": {"class_path": name, "init_args": arguments}}


#: A recipe of each kind of training.
RECIPES = {
    "sound": _recipe("AudioModule", "AudioData", _network("wavedil.audio.WaveNet", _WAVENET), _SOUND_DATA, **_SHORT),
    "conditional": _recipe(
        "AudioModule",
        "AudioData",
        _network("wavedil.audio.WaveNet", _WAVENET | {"condition": _MEL_CONDITION})
        | {"drop_condition": 0.3, "ema_decay": 0.9},
        _SOUND_DATA | {"num_workers": 2},
        {"accumulate_grad_batches": 2, "val_check_interval": 7},
        **_SHORT,
    ),
    "continued": _recipe(
        "AudioModule",
        "AudioData",
        _network("wavedil.audio.WaveNet", _WAVENET),
        _SOUND_DATA | {"truncated_bptt": True, "crop": 100},
        {"accumulate_grad_batches": 2},
        **_SHORT,
    ),
    "effect": _recipe(
        "EffectModule",
        "EffectData",
        _network("wavedil.audio.Effect", {"channels": 4, "skip_channels": 4, "dilations": "1..8", "sample_rate": 8000})
        | {"ema_decay": 0.9},
        {"crop": 400, "built_in_seconds": 2.0},
        {"accumulate_grad_batches": 3},
        **_SHORT,
    ),
    "images": _recipe(
        "SegmentationModule",
        "SegmentationData",
        {
            "backbone": {
                "class_path": "wavedil.vision.SmallBackbone",
                "init_args": {"channels": 4, "output_stride": 4},
            },
            "head": {"class_path": "wavedil.vision.models.heads.Conv1x1Head"},
        },
        {"crop": [32, 32], "batch_size": 2, "built_in_images": 10, "num_workers": 1},
        previews={"first": 4, "every": 6, "num": 1},
        samples={"num": 1},
    ),
    "rolls": _recipe(
        "MusicModule",
        "MusicData",
        _network(
            "wavedil.audio.models.tcn.TCN",
            {
                "in_channels": 88,
                "out_channels": 88,
                "channels": 8,
                "dilations": "1,2",
                "kernel_size": 2,
                "dropout": 0.3,
            },
        )
        | {"ema_decay": 0.9},
        {"batch_size": 2},
        {"accumulate_grad_batches": 2, "val_check_interval": 6},
        previews={"first": 4, "every": 6, "length": 12},
        samples={"num": 1, "length": 10},
    ),
}
#: Signals that end a training; ``INT2`` is Ctrl-C twice, ``GROUP`` SIGTERM to the data workers as well.
SIGNALS = {
    "KILL": [signal.SIGKILL],
    "TERM": [signal.SIGTERM],
    "HUP": [signal.SIGHUP],
    "INT": [signal.SIGINT],
    "INT2": [signal.SIGINT, signal.SIGINT],
    "GROUP": [signal.SIGTERM],
}
_OPERATIONS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod")


class Operations:
    """Counts the operations on files of a folder in this process, and calls a function before one of them."""

    def __init__(self, folder: Path, number: int | None = None, call=None):
        self.folder, self.number, self.call, self.count = str(folder), number, call, 0
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in _OPERATIONS or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder):
            self.count += 1
            if self.count == self.number:
                self.call(os.fspath(path))


def _send(process: int, name: str, pause: float = 0.0) -> None:
    for index, number in enumerate(SIGNALS[name]):
        if index:
            time.sleep(pause)
        with suppress(ProcessLookupError):
            (os.killpg if name == "GROUP" else os.kill)(process, number)


def _child(words: Sequence[str], folder: Path, log: Path, number: int | None, name: str, pipe) -> None:
    os.setpgid(0, 0)
    with log.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    from wavedil.train import run

    torch.set_num_threads(1)
    run.CHECKPOINT_EVERY = timedelta(seconds=0.1)  # the shortest runs take a second
    operations = Operations(folder, number, lambda path: _send(os.getpid(), name))
    status = wavedil(words)
    pipe.send(operations.count)
    sys.exit(status)


def _train(words: Sequence[str], folder: Path, moment: tuple[str, float] | None = None, name: str = "") -> tuple:
    """Trains in a forked process, which gets a signal at an ("operation", number) or after a ("time", seconds).

    Returns:
        Exit status, number of file operations, and seconds.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    number = int(moment[1]) if moment and moment[0] == "operation" else None
    process = context.Process(target=_child, args=(words, folder, folder.with_suffix(".log"), number, name, sender))
    started = time.perf_counter()
    process.start()
    sender.close()
    if moment and moment[0] == "time":
        process.join(moment[1])
        if process.is_alive():
            _send(process.pid, name, pause=random.Random(moment[1]).choice([0.0, 0.001, 0.03]))
    process.join(120)
    if process.is_alive():
        process.kill()
        process.join()
        return "hangs", 0, time.perf_counter() - started
    count = 0
    with suppress(EOFError):
        count = receiver.recv() if receiver.poll() else 0
    return process.exitcode, count, time.perf_counter() - started


def _results(folder: Path) -> dict[str, object]:
    """The weights of a finished run, and the bytes of its samples; captions name files in the run folder."""
    name = os.fsencode(folder)
    files = {path.name: path.read_bytes().replace(name, b"RUN") for path in sorted((folder / "samples").iterdir())}
    return files | load_file(folder / "model" / "model.safetensors")


def _differences(folder: Path, expected: dict[str, object]) -> list[str]:
    found = _results(folder)
    same = {
        name: torch.equal(value, expected[name]) if isinstance(value, torch.Tensor) else value == expected[name]
        for name, value in found.items()
        if name in expected
    }
    return [name for name in found.keys() | expected.keys() if not same.get(name)]


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders in a run folder."""
    return [path for path in folder.rglob(".*") if path.name not in (".lock", ".finished")]


def kill_runs(number: int, seed: int, kinds: Sequence[str], signals: Sequence[str], folder: Path) -> list[dict]:
    """Kills ``number`` trainings, prints a table, and returns a row for each kind and signal."""
    import wavedil.train.run  # noqa: F401  forked processes need not import it again

    draw = random.Random(seed)
    expected, lengths, table = {}, {}, {}
    for kind in kinds:
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(RECIPES[kind]), encoding="utf-8")
        run = folder / kind
        status, operations, seconds = _train(["train", "-c", str(folder / f"{kind}.yaml"), "--out", str(run)], run)
        if status != 0:
            print(f"{kind}: exit status {status} without a kill: {run.with_suffix('.log').read_text()[-2000:]}")
            return [fault_row(f"{kind} without a kill", Counter(faults=1))]
        expected[kind], lengths[kind] = _results(run), (operations, seconds)
        print(f"{kind}: {seconds:.1f} s, {operations} file operations", file=sys.stderr, flush=True)
    order = list(itertools.product(signals, kinds))
    draw.shuffle(order)
    pairs = itertools.cycle(order)
    done = 0
    while done < number:
        name, kind = next(pairs)
        run = folder / f"{kind}-{done}"
        start = ["train", "-c", str(folder / f"{kind}.yaml"), "--out", str(run)]
        resume = ["train", "--out", str(run), "--resume", "auto"]
        words, moments, problems = start, [], []
        counts = table.setdefault((kind, name), Counter())
        for _ in range(draw.randint(1, 3)):  # kills of one run
            operations, seconds = lengths[kind]
            if draw.random() < 0.5:
                moment = ("operation", draw.randint(1, operations))
            else:
                moment = ("time", draw.uniform(0, seconds))
            status, _, _ = _train(words, run, moment, name)
            moments.append((*moment, status))
            done += 1
            counts["kills"] += 1
            allowed = {0, -9} if name == "KILL" else {0, 128 + SIGNALS[name][0], -SIGNALS[name][0]}
            if status not in allowed:
                problems.append(f"exit status {status}")
            if any((run / "checkpoints").glob("[!.]*.ckpt")):
                words = resume
            else:
                shutil.rmtree(run, ignore_errors=True)  # as the message says
                words = start
                counts["from the start"] += 1
            if status == 0 or done >= number:
                break
        status = _train(words, run)[0]
        if status != 0:
            problems.append(f"exit status {status} of the last process")
        else:
            problems += [f"differs: {each}" for each in _differences(run, expected[kind])[:3]]
            problems += [f"left: {path}" for path in leftovers(run)[:3]]
        counts["runs"] += 1
        if problems:
            counts["faults"] += 1
            print(f"{kind} {name} {moments}: {'; '.join(problems)}; see {run}.log", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(run)
            run.with_suffix(".log").unlink()
    columns = ("kills", "from the start", "runs", "faults")
    print(f"{'kind':12} {'signal':7}" + "".join(f"{column:>15}" for column in columns))
    for (kind, name), counts in sorted(table.items()):
        print(f"{kind:12} {name:7}" + "".join(f"{counts[column]:15}" for column in columns))
    total = sum(table.values(), Counter())
    print(f"{'all':20}" + "".join(f"{total[column]:15}" for column in columns))
    return [fault_row(f"{kind}, {name}", counts) for (kind, name), counts in sorted(table.items())]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--number", type=int, default=60, help="number of kills (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of kinds, signals and moments")
    parser.add_argument("--kinds", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=list(SIGNALS))
    parser.add_argument("--folder", type=Path, help="keeps the runs that failed here (default: a temporary folder)")


def run(arguments: argparse.Namespace) -> list[dict]:
    """Kills trainings; returns a row for each kind and signal."""
    check_positive(number=arguments.number)
    if arguments.folder is not None and arguments.folder.exists():
        raise WavedilError(f"--folder {arguments.folder} exists: choose another")
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    rows = kill_runs(arguments.number, arguments.seed, arguments.kinds, arguments.signals, folder)
    if arguments.folder is None and not any(row["median"] for row in rows):
        shutil.rmtree(folder)
    return rows
