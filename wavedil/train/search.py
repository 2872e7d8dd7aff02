"""Compares dilation schedules by short trainings of a recipe: the function behind ``wavedil search -c RECIPE``."""

import json
import re
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from wavedil.core import Schedule, format_schedule, parse_schedule
from wavedil.core.cost import count_parameters
from wavedil.errors import Diverged, Interrupted, WavedilError, count_text, shown, with_article
from wavedil.fingerprints import compared, fingerprint
from wavedil.inspection.candidates import choose, measure_nanoseconds, rank_correlation, rank_schedules
from wavedil.inspection.model import multiply_adds_per_position, with_example
from wavedil.metrics import read_metrics
from wavedil.outputs import claim_folder
from wavedil.progress import clock, say, without_details
from wavedil.shards import is_folder, is_url
from wavedil.train.build import build
from wavedil.train.changes import changes, describe
from wavedil.train.recipes import check_given_once, find_recipes
from wavedil.train.run import run_recipe, silence_lightning
from wavedil.train.run_folder import METRICS, clear_unfinished, is_finished
from wavedil.writing import atomic_write

RESULT = "search.json"
_NETWORK = "model.network"
_VARIED = ("dilations", "kernel_size", "channels", "skip_channels")
_POSITIONS = 8192  # of the input whose time is measured


def search_schedules(
    recipe: str | Sequence[str],
    out: str | None = None,
    *,
    steps: int = 0,
    candidates: int = 8,
    field: int | None = None,
    budgets: Sequence[float] = (),
    unit: str = "multiply_adds",
    kernel_sizes: Sequence[int] = (2, 3, 6),
    schedules: Sequence[Any] = (),
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ranks dilation schedules for the network of a recipe, and compares the best ones by short trainings.

    The network's ``dilations``, ``kernel_size``, ``channels`` and, in proportion, ``skip_channels`` are varied; its
    other arguments, the data and the training are those of the recipe. Each training is a run folder in ``out``,
    with a learning rate that falls to zero at its last step. After an interruption, the same call continues; finished
    trainings are not repeated, also if there are more candidates or other budgets.

    Args:
        recipe: a YAML file or the name of a recipe; of several, later ones replace keys of earlier ones.
        out: folder of the trainings; default ``runs/search-<recipe>``. It also gets ``search.json``, the result.
        steps: optimizer steps of each training; 0 for no training.
        candidates: number of trainings for each budget, see :func:`wavedil.inspection.candidates.choose`.
        field: smallest receptive field in samples or steps; default that of the recipe.
        budgets: costs that each candidate may have at most; default that of the recipe.
        unit, kernel_sizes, schedules: as for :func:`wavedil.inspection.candidates.rank_schedules`. The recipe's own
            schedule is always a candidate.
        overrides: further options of the recipe, e.g. ``["--data.root", "speech/"]``. Those of the network set the
            schedule, budget and field that are the default.
        progress: called with the number of finished and of all candidates before the trainings.

    Returns:
        A JSON-serializable dict. ``candidates`` have the fields of :class:`wavedil.inspection.candidates.Candidate`,
        and ``run``, ``error`` (the held-out ``metric``, lower is better; None without a training) and ``note``, the
        reason if a training diverged. ``rank_correlation`` has, for each budget, Spearman's correlation of the proxy
        and the trained order: 1 if they agree.

    Raises:
        WavedilError: a recipe or option that cannot be used, a network without a schedule, an unreachable field, a
            budget that is too small, or ``out`` holds a search with other options.
        Interrupted: Ctrl-C or another signal.
    """
    for name, value in (("steps", steps), ("candidates", candidates)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10**9:
            raise WavedilError(f"{name} is {shown(value)}: expected an integer from 0")
    paths = find_recipes(recipe)
    folder = Path(out or f"runs/search-{paths[-1].stem}")
    check_given_once(overrides, [option.partition("=")[0] for option in _training_options(steps)])
    silence_lightning()
    cli = build(paths, folder, overrides)
    network = _Variants(getattr(cli.model, "network", None), paths[-1])
    root = getattr(cli.datamodule, "root", None)
    if steps and isinstance(root, str) and not is_url(root):  # found before the candidates, which take time
        missing = next((each for each in root.split(",") if not (Path(each).exists() or is_folder(each))), None)
        if missing is not None:
            raise WavedilError(f"--data.root: {missing} does not exist: expected the data of the trainings")
    inputs = [root] if isinstance(root, str) and Path(root).is_dir() else []
    with claim_folder(folder, [RESULT], inputs) if steps and candidates else nullcontext():
        own = network.schedule, network.kernel_size
        default = network.nanoseconds if unit == "nanoseconds" else partial(network.cost_in, unit)
        found = rank_schedules(
            network.field if field is None else field,
            list(budgets) or [default(*own, network.channels)],
            unit,
            kernel_sizes,
            schedules=[own, *schedules],
            network=network,
            progress=progress,
        )
        result = {
            "field": network.field if field is None else field,
            "unit": unit,
            "budgets": sorted({each.budget for each in found}),
            "steps": steps,
            "metric": cli.model.metric_names.valid,
            "candidates": [{**asdict(each), "run": None, "error": None, "note": ""} for each in found],
            "rank_correlation": {},
        }
        if steps and candidates:
            settings = yaml.safe_load(cli.parser.dump(cli.config))
            settings["trainer"].pop("default_root_dir")
            settings |= {"steps": steps, "files": _files_of(root)}
            result["settings"] = _same_settings(settings, folder)
            chosen = [
                each for b in result["budgets"] for each in choose([c for c in found if c.budget == b], candidates)
            ]
            rows = [result["candidates"][found.index(each)] for each in chosen]
            _train(rows, paths, folder, network, [*overrides, *_training_options(steps)], result)
    return result


def _train(
    rows: list[dict], paths: list[Path], folder: Path, network: "_Variants", overrides: list[str], result: dict
) -> None:
    """Trains each candidate that is not trained yet, and writes the result after each."""
    steps, seconds = result["steps"], []
    for row in rows:
        row["run"] = str(folder / _run_name(row))
    _write(result, folder)  # the settings, before a training can be killed
    waiting = [row for row in rows if not is_finished(Path(row["run"]), steps)]
    for row in rows:
        if row not in waiting:
            _record(row, result, folder)
    for index, row in enumerate(waiting):
        left = (
            f"about {clock(sum(seconds) / len(seconds) * (len(waiting) - index))} left" if seconds else "time left: ?"
        )
        name = f"{row['schedule']}, kernel {row['kernel_size']}, {row['channels']} channels"
        say(f"training {len(rows) - len(waiting) + index + 1} of {len(rows)}: {name}; {left}")
        started, run = time.perf_counter(), Path(row["run"])
        options = network.options(row["schedule"], row["kernel_size"], row["channels"])
        try:
            resume = "auto" if clear_unfinished(run) else None
            with without_details(index > 0):  # the data are the same
                _, status = run_recipe([str(path) for path in paths], str(run), resume, [*overrides, *options], ())
        except Diverged as error:
            row["note"], status = str(error), 0
        except Interrupted as error:
            status = error.status
        if status:
            raise Interrupted(f"interrupted in training {run}: the same command continues the search", status)
        seconds.append(time.perf_counter() - started)
        _record(row, result, folder)


def _record(row: dict, result: dict, folder: Path) -> None:
    """Adds the error of a finished training to the result, and writes that."""
    values = (
        [float(each[result["metric"]]) for each in read_metrics(Path(row["run"], METRICS))] if not row["note"] else []
    )
    values = [value for value in values if value == value]
    row["error"] = values[-1] if values else None
    for budget in result["budgets"]:
        trained = [each for each in result["candidates"] if each["budget"] == budget and each["error"] is not None]
        scores, errors = ([each[key] for each in trained] for key in ("score", "error"))
        result["rank_correlation"][f"{budget:g}"] = rank_correlation(scores, errors)
    _write(result, folder)


def _write(result: dict, folder: Path) -> None:
    with atomic_write(folder / RESULT) as beside:
        beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


class _Variants:
    """The network of a recipe with other dilations, kernel sizes and widths: costs, and the options that set them."""

    def __init__(self, network: nn.Module | None, path: Path):
        config = getattr(network, "config", {})
        missing = [name for name in _VARIED[:3] if name not in config]
        if missing or with_example(network, 1) is None:
            found = "no network" if network is None else f"{with_article(network)} without {' and '.join(missing)}"
            raise WavedilError(
                f"recipe {path.stem} has {found}: expected one with dilations, kernel_size and channels, "
                "as in amp, pluck and jsb; for a schedule alone, leave out -c and set --field"
            )
        for name in _VARIED:
            if not isinstance(config.get(name, 1), int) and name != "dilations":
                raise WavedilError(
                    f"recipe {path.stem}: {name} is {shown(config[name])}: expected one number for all layers"
                )
        self.network, self._costs = network, {}
        self.schedule, self.kernel_size, self.channels = (config[name] for name in _VARIED[:3])
        self.schedule = format_schedule(self.schedule)
        self.field = network.receptive_field
        self.convolutions = len(network.dilations) // len(parse_schedule(self.schedule))

    def cost(self, dilations: Schedule, kernel_size: int, channels: int) -> tuple[int, int]:
        """Parameters and multiply-adds per output sample; both depend on the number of the dilations only."""
        key = len(parse_schedule(dilations)), kernel_size, channels
        if key not in self._costs:
            variant = self._variant("1 x" + str(key[0]), kernel_size, channels)
            self._costs[key] = count_parameters(variant), multiply_adds_per_position(variant)
        return self._costs[key]

    def cost_in(self, unit: str, *variant: Any) -> int:
        return self.cost(*variant)[unit == "multiply_adds"]

    def nanoseconds(self, dilations: Schedule, kernel_size: int, channels: int) -> float:
        module, *inputs = with_example(self._variant(dilations, kernel_size, channels).eval(), _POSITIONS)
        return measure_nanoseconds(lambda: module(*inputs), _POSITIONS)

    def _variant(self, *values: Any) -> nn.Module:
        return type(self.network)(**{**self.network.config, **self._arguments(*values)})

    def _arguments(self, dilations: Schedule, kernel_size: int, channels: int) -> dict[str, Any]:
        arguments = {"dilations": dilations, "kernel_size": kernel_size, "channels": channels}
        if skips := self.network.config.get("skip_channels"):
            arguments["skip_channels"] = max(1, round(skips * channels / self.channels))
        return arguments

    def options(self, *values: Any) -> list[str]:
        """The options of the recipe for a variant."""
        return [f"--{_NETWORK}.{name}={value}" for name, value in self._arguments(*values).items()]


def _training_options(steps: int) -> list[str]:
    if not steps:
        return []
    budget = [f"--trainer.max_steps={steps}", "--trainer.max_time=null"]
    return [*budget, f"--trainer.val_check_interval={steps}"]


def _files_of(root: Any) -> str | None:
    """Number and checksum of the data files, which must stay the same; None for built-in data and URLs."""
    if not isinstance(root, str) or is_url(root):
        return None
    files = []
    for place in map(Path, root.split(",")):  # DRY.wav,WET.wav
        found = place.rglob("[!.]*") if place.is_dir() else [place]
        files += sorted(path for path in found if path.is_file())
    checksum = 0
    for path in compared(files):
        checksum = zlib.crc32(f"{path.name} {fingerprint(path)}".encode(errors="surrogateescape"), checksum)
    return f"{count_text(len(files), 'file')} with checksum {checksum:08x}"


def _same_settings(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings, if those of an earlier search in the folder are equal."""
    settings = json.loads(json.dumps(settings, default=str))
    try:
        before = json.loads((folder / RESULT).read_text(encoding="utf-8"))["settings"]
    except FileNotFoundError:
        return settings
    except (ValueError, KeyError, TypeError):
        raise WavedilError(f"{folder / RESULT} is not the result of a search: choose another --out") from None
    if found := list(changes(before, settings)):
        raise WavedilError(
            f"{folder} holds a search with other options or data, {describe(found)}: choose another --out"
        )
    return settings


def _run_name(row: dict[str, Any]) -> str:
    schedule = re.sub(r"[^0-9a-z]+", "-", row["schedule"].replace("..", "to"))
    if len(schedule) > 80:
        schedule = f"{schedule[:60]}-{sha256(row['schedule'].encode()).hexdigest()[:8]}"
    return f"{schedule}_kernel{row['kernel_size']}_channels{row['channels']}"
