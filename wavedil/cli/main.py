"""The shell: each command reads its arguments and calls the Python function of the same meaning.

Heavy imports are inside the functions: ``wavedil --help`` imports nothing but this file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

from wavedil.cli import effects as cli_effects
from wavedil.cli import piano_rolls as cli_music
from wavedil.cli import vision as cli_vision
from wavedil.cli import weights as cli_weights
from wavedil.errors import WavedilError
from wavedil.progress import Bar

#: Which extra brings what a command may miss; all else is of ``train``.
_EXTRAS = {
    "PIL": "vision",
    "timm": "vision",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "huggingface_hub": "hub",
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command; 0, or 2 after a one-line error."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read by GNU OpenMP when torch is loaded: a waiting thread spins about 0.1 ms and then sleeps, not 10 ms. Where
        # another process has one of two cores, long spinning slows training five to ten times (recipes/README.md).
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.run is not _train:
        parser.error(f"unknown arguments: {' '.join(rest)}; see wavedil {arguments.command} --help")
    messages, logger = _Messages(), logging.getLogger("wavedil")
    logger.addHandler(messages)
    logger.setLevel(logging.INFO)
    try:
        arguments.run(arguments, rest)
    except ImportError as error:
        what = error.name or error
        extra = _EXTRAS.get((error.name or "").partition(".")[0], "train")
        print(f"error: this needs {what}, which is not installed: pip install 'wavedil[{extra}]'", file=sys.stderr)
        return 2
    except (WavedilError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    finally:
        logger.removeHandler(messages)
    return 0


def _train(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from wavedil.train.run import train

    train(arguments.config, arguments.out, arguments.resume, overrides)


def _sample(arguments: argparse.Namespace, _: list[str]) -> None:
    import torch

    from wavedil.audio.conditioning.conditioner import read_features
    from wavedil.audio.data import audio_files
    from wavedil.audio.generation.engines import choose
    from wavedil.audio.generation.generate import generate
    from wavedil.audio.models.wavenet import WaveNet
    from wavedil.weights import load

    if arguments.seconds is not None and not 0 < arguments.seconds < 1e9:
        raise WavedilError(f"--seconds is {arguments.seconds}: expected a length of more than 0 and less than 1e9")
    place = next(path for path in (Path(arguments.out), *Path(arguments.out).absolute().parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise WavedilError(f"--out is {arguments.out}, but {place} is no folder that can be written to")
    model = load(arguments.model, arguments.device, expect=WaveNet)
    prime = None
    if arguments.prime:
        sound, _ = audio_files.read(arguments.prime, sample_rate=model.sample_rate)
        prime = torch.from_numpy(sound).unsqueeze(0)
    condition, length = read_features(model, arguments.condition) if arguments.condition else (None, None)
    if length is not None and prime is not None:
        length = max(1, length - prime.shape[2])  # the condition covers the recording, too
    if arguments.seconds is not None or length is None:
        seconds = 2.0 if arguments.seconds is None else arguments.seconds
        length = max(1, round(seconds * model.sample_rate))
    names = ("num", "seed", "temperature", "top_k", "top_p", "speaker", "guidance", "engine", "precision", "threads")
    options = {name: getattr(arguments, name) for name in names} | {"condition": condition, "prime": prime}
    generate(model, 1, **options | {"prime": None})  # compiled or loaded: that is not what the speed below is of
    bar = Bar("sampling", length * arguments.num, "sample", model.sample_rate)
    started = time.perf_counter()
    sound = generate(model, length, **options, progress=lambda done, total: bar.to(done * arguments.num))
    seconds = time.perf_counter() - started
    bar.close()
    if sound.shape[2] < length:
        made, wanted = (samples / model.sample_rate for samples in (sound.shape[2], length))
        print(f"interrupted: the clips have {made:.2f} of {wanted:.2f} seconds", file=sys.stderr)
    files = []
    for index, clip in enumerate(sound):
        path = Path(arguments.out) / f"sample_{index:03d}.wav"
        audio_files.write(path, clip.cpu(), model.sample_rate)
        files.append(str(path))
    per_second = sound.shape[0] * sound.shape[2] / seconds
    result = {
        "files": files,
        "seconds_each": sound.shape[2] / model.sample_rate,
        "samples_per_second": round(per_second, 1),
        "real_time_factor": round(per_second / model.sample_rate, 4),
        "engine": choose(arguments.engine, model.plan(), arguments.num, arguments.guidance, arguments.precision),
        "precision": arguments.precision,
    }
    print(json.dumps(result, indent=2))


def _evaluate(arguments: argparse.Namespace, _: list[str]) -> None:
    from wavedil.weights import load

    model = load(arguments.model, arguments.device)
    name = type(model).__name__
    paired = ("Effect", "NAM")
    ways = {"TCN": cli_music.evaluate} | dict.fromkeys(paired, cli_effects.evaluate)
    evaluate = ways.get(name, _evaluate_sound)
    if ".vision." in type(model).__module__:
        from wavedil.vision.models.predictor import DensePredictor

        if not isinstance(model, DensePredictor):
            raise WavedilError(f"{arguments.model} holds a {name}: expected {DensePredictor.title}")
        evaluate = cli_vision.evaluate
    options = ("dataset", "speakers", "normalize", "trim_db", "precision", "resynthesize", "temperature", "guidance")
    sounds = dict.fromkeys(options, ("WaveNet",))
    for option, takers in ({"resample": paired} | sounds).items():
        if getattr(arguments, option) not in (None, False) and name not in takers:
            raise WavedilError(
                f"--{option.replace('_', '-')} is for a model of {' or '.join(takers)}, not for a {name}: leave it out"
            )
    if evaluate is _evaluate_sound and name != "WaveNet":
        raise WavedilError(
            f"{arguments.model}: there is no figure for a {name}: expected a WaveNet, Effect, NAM, TCN or one of images"
        )
    result, text = evaluate(model, arguments)
    print(json.dumps(vars(result), indent=2) if arguments.json else text)


def _evaluate_sound(model, arguments: argparse.Namespace):
    import torch

    from wavedil.audio.conditioning.speakers import speakers_of
    from wavedil.audio.data.audio_files import list_audio_files
    from wavedil.audio.data.corpus import Corpus
    from wavedil.audio.data.feature_files import FeatureFiles
    from wavedil.audio.data.published import find_published
    from wavedil.audio.data.split import split_files
    from wavedil.audio.evaluation import evaluate

    cli_vision.refuse_options(arguments, type(model).__name__)
    data, source = Path(arguments.data), arguments.speakers
    root = data.parent if data.is_file() else data
    if arguments.dataset is not None:
        root, files, own = find_published(arguments.dataset, data)
        source = source or own
    else:
        files = [data] if data.is_file() else list_audio_files(data)
    if arguments.held_out or arguments.validation or arguments.exclude:
        files = split_files(files, validation=arguments.validation, exclude=arguments.exclude).validation
    corpus = Corpus(files, model.sample_rate, normalize=arguments.normalize, trim_db=arguments.trim_db)
    if arguments.resynthesize is not None:
        return _resynthesize(model, corpus, root, source, arguments)
    if arguments.temperature is not None or arguments.guidance is not None:
        given = "--guidance" if arguments.temperature is None else "--temperature"
        raise WavedilError(f"{given} changes what is sampled, not bits per sample: use it with --resynthesize")
    bar = Bar("evaluating", int(corpus.lengths.sum()), "sample")
    sounds = (torch.from_numpy(corpus.sound(index)) for index in range(len(corpus)))
    speakers = speakers_of(corpus.paths, root, source, model.speakers) if model.speakers else None
    local = model.conditioner.local
    found = None if local is None or local.features.of_sound else FeatureFiles(corpus, local)
    features = None if found is None else map(found.whole, range(len(corpus)))
    result = evaluate(model, sounds, bar.to, speakers, arguments.precision, features)
    bar.close()
    text = f"{result.bits_per_sample:.4f} bits per sample over {result.count} samples of {result.files} files"
    return result, f"{text}\n({result.definition})"


def _resynthesize(model, corpus, root: Path, source: str | None, arguments: argparse.Namespace):
    import torch

    from wavedil.audio.conditioning.speakers import speakers_of
    from wavedil.audio.resynthesis import resynthesize

    count = arguments.resynthesize
    if count < 1:
        raise WavedilError(f"--resynthesize is {count}: expected a number of files, at least 1")
    files = range(min(count, len(corpus)))
    paths = [corpus.paths[i] for i in files]
    speakers = speakers_of(paths, root, source, model.speakers) if model.speakers else None
    bar = Bar("resynthesizing", len(files), "clip")
    sounds = (torch.from_numpy(corpus.sound(i)) for i in files)
    drawn = {name: getattr(arguments, name) for name in ("temperature", "guidance")}
    drawn = {name: value for name, value in drawn.items() if value is not None}
    result = resynthesize(model, sounds, speakers, **drawn, progress=bar.of)
    bar.close()
    distances = f"{result.distance_db:.2f} dB by the model, {result.griffin_lim_db:.2f} dB by Griffin-Lim"
    return result, f"{distances}, {result.clips} clips\n({result.definition})"


def _inspect(arguments: argparse.Namespace, _: list[str]) -> None:
    from wavedil.inspection import schedule as inspection

    render = inspection.render_text
    if arguments.what and Path(arguments.what).is_dir():
        from wavedil.weights import load

        model = load(arguments.what)
        if ".vision." in type(model).__module__:
            from wavedil.inspection.vision import inspect_segmenter, render_segmenter
            from wavedil.vision.models.predictor import DensePredictor

            if not isinstance(model, DensePredictor):
                raise WavedilError(f"{arguments.what} holds a {type(model).__name__}: expected {DensePredictor.title}")

            if arguments.plot:
                raise WavedilError("--plot draws a schedule: give that of the context module, e.g. 1,1,2,4,8,16,1")
            info, render = inspect_segmenter(model), render_segmenter
        else:
            info = inspection.inspect_model(model)
    else:
        info = inspection.inspect_schedule(
            arguments.what, arguments.ndim, arguments.kernel_size, arguments.channels, arguments.rate
        )
    if arguments.plot:
        inspection.plot(info, arguments.plot)
    print(json.dumps(info, indent=2) if arguments.json else render(info))


def _report(arguments: argparse.Namespace, _: list[str]) -> None:
    from wavedil.report import write_report

    print(write_report(arguments.folder))


def _bench(arguments: argparse.Namespace, _: list[str]) -> None:
    from wavedil.bench import render, run_benchmark

    result = run_benchmark(arguments.name, device=arguments.device, threads=arguments.threads)
    if arguments.json:
        from wavedil.files import written_beside

        with written_beside(arguments.json) as beside:
            beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(render(result))


class _Messages(logging.Handler):
    """What the package logs, as lines on standard error, above a bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


class _OneLineParser(argparse.ArgumentParser):
    """Errors in the package's form: one line, status 2."""

    def error(self, message: str):
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(prog="wavedil", description="Audio models and dense prediction with dilated convolutions.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_OneLineParser)

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    train = command("train", _train, "Train by a recipe; without one, the default recipe on built-in sound.")
    train.epilog = (
        "Every key of the recipe is an option: --data.root DIR, --trainer.max_time 00:00:15:00, "
        "--model.network.channels 32 … Ctrl-C keeps model and checkpoint."
    )
    train.add_argument("-c", "--config", metavar="RECIPE", help="a YAML file, or the name of a recipe of the package")
    train.add_argument("--out", metavar="RUN", help="run folder; default: a fresh one below runs/")
    train.add_argument("--resume", metavar="auto", help="continue the run in --out, or the newest of this recipe")

    sample = command("sample", _sample, "Make sound with a model.")
    sample.add_argument("model", metavar="MODEL", help="model folder, e.g. RUN/model")
    sample.add_argument(
        "--seconds", type=float, help="length of each clip (default that of the condition, or 2 without one)"
    )
    sample.add_argument("--num", type=int, default=1, help="number of clips (default 1)")
    sample.add_argument("--seed", type=int, default=0, help="clip i depends on the seed and i alone (default 0)")
    sample.add_argument("--out", default="samples", help="folder for the files (default samples)")
    sample.add_argument("--temperature", type=float, default=1.0, help="below 1: safer and duller (default 1)")
    sample.add_argument("--top-k", type=int, help="draw from the k most likely codes only")
    sample.add_argument("--top-p", type=float, help="draw from the most likely codes that hold this probability")
    sample.add_argument("--prime", metavar="FILE", help="a recording that the clips continue")
    sample.add_argument("--condition", metavar="FILE", help="a sound whose features to follow, or features as .npy")
    sample.add_argument("--speaker", metavar="NAME", help="one of those that the model knows")
    sample.add_argument(
        "--guidance", type=float, default=1.0, help="above 1 exaggerates condition and speaker (default 1)"
    )
    sample.add_argument("--engine", default="auto", help="auto, torch, graphs, numba or triton (default auto)")
    sample.add_argument("--precision", default="fp32", help="of weights: fp32 (default), or bf16 with numba or triton")
    sample.add_argument("--threads", type=int, default=1, help="of the numba engine: 1 or 2 (default 1)")
    sample.add_argument("--device", default="cpu", help="cpu, cuda … (default cpu)")

    process = command("process", cli_effects.process, "Run a sound file through an effect (amp, pedal, denoiser).")
    cli_effects.add_process_options(process)

    segment = command("segment", cli_vision.segment, "Label images: class maps and color overlays.")
    cli_vision.add_segment_options(segment)

    evaluate = command("evaluate", _evaluate, "Bits per sample, ESR, nats per step, or mean IoU, over whole files.")
    evaluate.add_argument("model", metavar="MODEL", help="model folder")
    evaluate.add_argument(
        "data",
        metavar="DATA",
        help="file or folder of sound; table or folder of an effect's recordings; folder of images and masks; .mat "
        "file of piano rolls",
    )
    evaluate.add_argument(
        "--held-out",
        action="store_true",
        help="only every tenth of the sorted files; piano rolls: validation pieces",
    )
    evaluate.add_argument("--validation", metavar="REGEX", help="only files whose path matches, as in a recipe's data")
    evaluate.add_argument(
        "--exclude", metavar="REGEX", help="sound: leave out files whose path matches, as in a recipe's data"
    )
    evaluate.add_argument("--dataset", metavar="NAME", help="sound: a published one below DATA, as in a recipe's data")
    evaluate.add_argument(
        "--speakers", metavar="SOURCE", help="sound: folders, a .csv file, or a regular expression with one group"
    )
    evaluate.add_argument("--normalize", metavar="HOW", help="sound: peak or rms, as in the recipe's data")
    evaluate.add_argument("--trim-db", type=float, metavar="DB", help="sound: cut silence off, as in the recipe's data")
    evaluate.add_argument("--precision", help="sound: by the engine that samples, weights in fp32 or bf16")
    evaluate.add_argument(
        "--resynthesize",
        type=int,
        metavar="N",
        help="vocoders: the spectral distance of clips made from the mels of N files, and Griffin-Lim's",
    )
    evaluate.add_argument("--temperature", type=float, help="of what --resynthesize draws (default 1)")
    evaluate.add_argument("--guidance", type=float, help="of what --resynthesize draws (default 1)")
    evaluate.add_argument("--resample", action="store_true", help="effects: take recordings of another rate")
    cli_vision.add_evaluate_options(evaluate)
    evaluate.add_argument("--device", default="cpu")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    inspect = command("inspect", _inspect, "Receptive field, cost and gridding of a schedule or a model.")
    inspect.add_argument("what", metavar="SCHEDULE|MODEL", help='e.g. "1..512 x3", "1,2,5 x4", or a model folder')
    inspect.add_argument("--ndim", type=int, default=1, help="space axes, 1 to 3 (default 1)")
    inspect.add_argument("--kernel-size", type=int, help="default 2 for sound (1 axis), 3 otherwise")
    inspect.add_argument("--channels", type=int, default=64, help="of each layer, for parameters and cost (default 64)")
    inspect.add_argument("--rate", type=int, help="sample rate in Hz, to give the field in ms")
    inspect.add_argument("--plot", metavar="FILE", help="write a picture: .png, .svg or .pdf")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")

    convert = command("convert", cli_weights.convert, "Make a model folder of another program's weights.")
    cli_weights.add_convert_options(convert)

    export = command("export", cli_weights.export, "Write a model for another program: .nam or .onnx.")
    cli_weights.add_export_options(export)

    report = command("report", _report, "One HTML page of a run: players, spectrograms, curves.")
    report.add_argument("folder", metavar="RUN")

    bench = command("bench", _bench, "Measure on this machine: ours, plain torch, and what else is installed.")
    bench.add_argument("name", metavar="NAME", help="conv, crf, dense, numerics, sample, segment or train")
    bench.add_argument("--json", metavar="FILE", help="write the result there")
    bench.add_argument("--device", default="cpu")
    bench.add_argument("--threads", type=int, help="default: what torch takes")
    return parser


class _Version(argparse.Action):
    """Imports the package only when asked for."""

    def __call__(self, parser, namespace, values, option_string=None):
        from wavedil import __version__

        print(__version__)
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
