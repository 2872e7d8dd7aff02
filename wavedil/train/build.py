"""Builds module, data module and trainer of a recipe, with errors in one line that name the key."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from importlib import import_module
from numbers import Number
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from jsonargparse.typing import register_type
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import nn

from wavedil.errors import WavedilError, shown
from wavedil.extras import install
from wavedil.progress import say
from wavedil.registry import is_registered, register
from wavedil.train.callbacks import CheckMonitors, Progress, SaveConfig, SaveModel
from wavedil.train.changes import changes, describe
from wavedil.train.checkpoints import SafeCheckpointIO
from wavedil.train.divergence import RestartOnDivergence, StopOnNaN
from wavedil.train.loggers import with_folders
from wavedil.train.module import TrainingModule
from wavedil.train.parser_errors import reason, with_option
from wavedil.train.parts import check_parts
from wavedil.train.recipe_help import classes_of, commented, key_groups
from wavedil.train.recipe_text import load_yaml, parse_yaml, strict_yaml
from wavedil.train.recipes import (
    SAFE_PACKAGES,
    check_options,
    check_strategy,
    module_class,
    read_recipe,
    read_recipes,
    safe_classes_only,
    unsafe_class,
    wrong_strategy,
)
from wavedil.train.run_folder import process_rank
from wavedil.train.sharding import FSDP
from wavedil.train.trainer_options import check_trainer, parse_duration


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return value


# The type of arguments of torchvision's transforms.
register_type(Number, serializer=_number, deserializer=_number, fail_already_registered=False)

CHECKPOINT_EVERY = timedelta(minutes=2)


class RecipeCLI(LightningCLI):
    """LightningCLI with three more keys: ``previews`` and ``samples``, whose arguments depend on the module, and
    ``expected``, what the recipe reaches with its own data.
    """

    def __init__(
        self,
        module: type[TrainingModule],
        recipe: dict[str, Any],
        folder: Path,
        recorded: Any,
        is_shown: bool = False,
        **kwargs: Any,
    ):
        self.module, self.recipe, self.folder, self.is_shown = module, recipe, folder, is_shown
        self.recorded = recorded  # folder of the run whose config.yaml the recipe is
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        text = "what the recipe reaches; printed if a training with its own data ends before its last step"
        parser.add_argument("--expected", type=str | None, default=None, help=text)
        if self.module.previews_class is not None:
            parser.add_lightning_class_args(self.module.previews_class, "previews")
        if self.module.samples_class is not None:
            parser.add_class_arguments(self.module.samples_class, "samples")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # The method of LightningCLI warns if sys.argv has other arguments, which it always has here.
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise WavedilError(reason(error, parser, self.recipe)) from error
        check_strategy(self.config.trainer.strategy)
        root = self.config.trainer.default_root_dir
        if root not in (None, self.recorded):
            raise WavedilError(
                f"--trainer.default_root_dir is {shown(root)}: it is the run folder; remove it and name that with --out"
            )
        self.config.trainer.default_root_dir = str(self.folder)
        for name in ("max_time", "val_check_interval"):
            value = self.config.trainer[name]
            if name == "max_time" or isinstance(value, str):
                self.config.trainer[name] = parse_duration(f"trainer.{name}", value)
        trainer = {f"trainer.{key}": value for key, value in vars(self.config.trainer).items()}
        # Namespaces are dictionaries of the recipe
        plain = {key: vars(value) if isinstance(value, Namespace) else value for key, value in trainer.items()}
        check_trainer(plain | {"seed_everything": self.config.seed_everything})
        if self.is_shown:
            self._print_recipe()
            raise SystemExit(0)

    def _print_recipe(self) -> None:
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        defaults = vars(self.parser.get_defaults().trainer)
        print(commented(config, defaults, self.recipe, list(key_groups(config, self.module))), end="")

    def instantiate_classes(self) -> None:
        # The user trusts the classes of the recipe, so the run can save a network with them.
        for cls in _parts(self.config.model):
            with suppress(WavedilError):  # a class that cannot be registered is refused if it is part of the network
                register(cls)
        try:
            super().instantiate_classes()
        except ImportError:
            raise
        except Exception as error:
            raise WavedilError(with_option(reason(error), self.config)) from error

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        settings = self.config.trainer
        if settings.accelerator == "auto":
            # Not Apple's GPU: sampling needs float64, which it lacks.
            kwargs["accelerator"] = "cuda" if torch.cuda.is_available() else "cpu"
        if settings.precision is None:
            kwargs["precision"] = fast_precision(kwargs.get("accelerator", settings.accelerator))
        elif str(settings.precision) in ("16", "16-mixed") and kwargs.get("accelerator", settings.accelerator) == "cpu":
            raise WavedilError(f"trainer.precision is {settings.precision}: CPUs need bf16-mixed or 32-true")
        if settings.logger is None or settings.logger is True:
            kwargs["logger"] = TensorBoardLogger(
                settings.default_root_dir, name="", version="tensorboard", default_hp_metric=False
            )
        if any(isinstance(each, RestartOnDivergence) for each in self.config_init.trainer.callbacks or ()):
            defaults = self.trainer_defaults["callbacks"]
            defaults[:] = [each for each in defaults if not isinstance(each, StopOnNaN)]
        if settings.strategy == FSDP.strategy_name:
            kwargs["strategy"] = FSDP()
        trainer = super().instantiate_trainer(**kwargs)
        launcher = trainer.strategy.launcher
        if launcher is not None and not isinstance(launcher, _SubprocessScriptLauncher):  # auto in a notebook
            raise wrong_strategy(type(trainer.strategy).__name__)
        trainer.callbacks.insert(0, CheckMonitors())  # before the callbacks that look for their metric
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one of a strategy or a plugin
            trainer.strategy.checkpoint_io = SafeCheckpointIO()
        return trainer


def _parts(value: Any) -> Iterator[type]:
    """Classes of networks and their parts in a config that are not registered yet."""
    if isinstance(value, Namespace):
        name = getattr(value, "class_path", None)
        found = None
        if isinstance(name, str) and not name.startswith(("torch.", "wavedil.", "lightning.")):
            with suppress(ImportError, AttributeError, ValueError):
                found = getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
        kinds = (L.LightningModule, nn.modules.loss._Loss)
        is_part = isinstance(found, type) and issubclass(found, nn.Module) and not issubclass(found, kinds)
        if is_part and not is_registered(found):
            yield found
        for each in vars(value).values():
            yield from _parts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _parts(each)


def fast_precision(accelerator: str) -> str:
    """``bf16-mixed`` if the hardware multiplies bf16, else ``32-true``."""
    if accelerator in ("cuda", "gpu"):
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Private: torch has no public query for bf16 support of CPUs.
        is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        fast = accelerator == "cpu" and is_supported is not None and is_supported()
    return "bf16-mixed" if fast else "32-true"


def build(
    config: Path | Sequence[Path],
    folder: Path,
    overrides: Sequence[str],
    imports: Sequence[str] | None = None,
    is_shown: bool = False,
) -> RecipeCLI:
    """Module, data module and trainer of a recipe and of command-line options.

    Args:
        config: the recipe, or several of which later ones replace keys of earlier ones.
        folder: the run folder.
        overrides: command-line options.
        imports: packages that may be named besides :data:`SAFE_PACKAGES`; None for all.
        is_shown: print the merged recipe with comments, and raise SystemExit.

    Raises:
        WavedilError: anything in the recipe or the options that cannot be used.
        ModuleNotFoundError: a class of the recipe needs a package that is not installed.
    """
    configs = [config] if isinstance(config, Path) else list(config)
    recipe, recipes, renamed = read_recipes(configs)
    check_options(overrides, recipe)
    check_parts(recipe, overrides)
    config = configs[-1]
    is_record = config.name == "config.yaml" and (config.parent / "checkpoints").is_dir()
    trainer = recipe.get("trainer")
    recorded = trainer.get("default_root_dir") if is_record and isinstance(trainer, dict) else None
    for text in [] if process_rank() else renamed:
        say(text)
    for each in recipes:
        if isinstance(each.get("trainer"), dict) and isinstance(each["trainer"].get("logger"), str | dict | list):
            each["trainer"]["logger"] = with_folders(each["trainer"]["logger"], folder, recorded)
    overrides = _with_loggers(overrides, folder)
    texts = [
        str(path) if load_yaml(path) == each else yaml.safe_dump(each, sort_keys=False)
        for path, each in zip(configs, recipes, strict=True)
    ]
    callbacks = [
        Progress(),
        SaveModel(),
        StopOnNaN(),
        ModelCheckpoint(
            folder / "checkpoints", filename="last", train_time_interval=CHECKPOINT_EVERY, enable_version_counter=False
        ),
    ]
    restricted = nullcontext() if imports is None else safe_classes_only(imports)
    refused: list[WavedilError] = []
    try:
        with restricted, strict_yaml() as refused:
            return RecipeCLI(
                module_class(configs, None if imports is None else [*SAFE_PACKAGES, *imports]),
                recipe,
                folder,
                recorded,
                is_shown,
                args=[*(word for text in texts for word in ("-c", text)), *overrides],
                run=False,
                model_class=TrainingModule,
                datamodule_class=L.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,  # model.optimizer is the optimizer, with the module's schedule
                save_config_callback=SaveConfig,
                seed_everything_default=0,
                parser_kwargs={"prog": "wavedil train", "exit_on_error": False, "allow_abbrev": False},
                trainer_defaults={
                    "callbacks": callbacks,
                    "check_val_every_n_epoch": None,  # validation is by steps: the first epoch is infinite
                    "enable_model_summary": False,
                    "num_sanity_val_steps": 0,
                    "use_distributed_sampler": False,  # EndlessSampler distributes the items
                },
            )
    except Exception as error:
        if refused:
            raise WavedilError(refused[0]) from None
        denied = re.search(r"Importing '([^']+)' is not allowed", f"{error} {error.__cause__}")
        if denied:
            raise unsafe_class(config, denied[1]) from None
        if isinstance(error, ModuleNotFoundError) and not _is_named(error.name or "", (recipe, list(overrides))):
            raise
        text = reason(error)
        found = re.search(r"'[\w.]*\.(\w+)': Requirement '(\w+)[^']*' not met", text)
        if found:
            text = _missing_package(found[1], found[2], recipe, overrides)
        raise WavedilError(text) from error


def _missing_package(name: str, package: str, recipe: dict[str, Any], overrides: Sequence[str]) -> str:
    """The error about a class whose package is not installed, with the option or key that names the class."""
    options = [word.partition("=")[0] for word in overrides if name in word]
    place = next((each for each, cls in classes_of(recipe) if cls.endswith(name)), "trainer.logger")
    return f"{options[0] if options else place}: {name} needs {package}, which is not installed: {install(package)}"


def _with_loggers(overrides: Sequence[str], folder: Path) -> list[str]:
    """Options with the arguments that the loggers of this run have by default."""
    words = list(overrides)
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option not in ("--trainer.logger", "--trainer.logger+") or (not equals and index + 1 == len(words)):
            continue
        with suppress(WavedilError):  # the parser reports it
            logger = parse_yaml(value if equals else words[index + 1])
            if (complete := with_folders(logger, folder)) != logger:
                words[index : index + 1 + (not equals)] = [f"{option}={json.dumps(complete)}"]
    return words


def _is_named(module: str, value: Any) -> bool:
    """Whether a recipe or an option names a class of ``module``, so that it is not a package that is missing."""
    if isinstance(value, dict):
        return any(_is_named(module, item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_is_named(module, item) for item in value)
    return isinstance(value, str) and re.search(rf"\b{re.escape(module)}\.", value) is not None


def check_same_recipe(recipes: Sequence[Path], record: Path) -> None:
    """Checks a recipe, or several, that are named beside a run to be resumed, whose ``config.yaml`` is read instead.

    Raises:
        WavedilError: the run is of other classes.
    """
    given, recorded, recipe = read_recipes(recipes)[0], read_recipe(record)[0], " ".join(map(str, recipes))
    found = [each for each in changes(recorded, given) if each[2] is not None]
    classes = [each for each in found if each[0].endswith("class_path")]
    if classes:
        raise WavedilError(f"{record} is not of the recipe {recipe}: {describe(classes)}; remove -c, or change --out")
    if found and not process_rank():
        say(f"{record} is used, not {recipe}, which differs in {describe(found)}")


def print_changes(cli: RecipeCLI, record: Path) -> None:
    """Prints what options change in a run that is resumed."""
    cli.config.trainer.default_root_dir = read_recipe(record)[0].get("trainer", {}).get("default_root_dir")
    found = list(changes(read_recipe(record)[0], yaml.safe_load(cli.parser.dump(cli.config))))
    cli.config.trainer.default_root_dir = str(cli.folder)
    if found and not process_rank():
        say(f"changed when resuming: {describe(found)}")


def show_help(config: Sequence[Path], options: Sequence[str]) -> bool:
    """Prints what ``--print_config``, ``--data.help [CLASS]`` and the like ask for; False if no option asks."""
    for index, option in enumerate(options):
        name, _, value = option.partition("=")
        if name == "--print_config":
            others = [*options[:index], *options[index + 1 :]]
            _print_and_return(config, [*others, option] if "=" in option else others, is_shown="=" not in option)
            return True
        if not re.fullmatch(r"--[\w.]+\.help", name):
            continue
        key = name[2:].removesuffix(".help").replace(".init_args", "")
        following = options[index + 1] if index + 1 < len(options) else "-"
        value = value or ("" if following.startswith("-") else following)
        recipe, module = read_recipes(config)[0], module_class(config)
        groups = {"trainer": L.Trainer, "previews": module.previews_class, "samples": module.samples_class}
        if groups.get(key) is not None:
            parser = LightningArgumentParser(prog="wavedil train", add_help=False)
            parser.add_class_arguments(groups[key], key, fail_untyped=False)
            parser.print_help()
            return True
        value = value or dict(classes_of(recipe)).get(key, "")
        if not value:
            raise WavedilError(f"{name}: the recipe names no class there; expected --{key}.help CLASS")
        _print_and_return(config, [name, value] if "." not in key else [f"{name}={value}"])
        return True
    return False


def _print_and_return(config: Sequence[Path], options: Sequence[str], is_shown: bool = False) -> None:
    try:
        build(config, Path("run"), options, is_shown=is_shown)
    except SystemExit as error:  # the parser has printed it
        if error.code not in (0, "0", None):
            raise WavedilError(f"{options[-1]}: no help for it; see wavedil train --print_config") from None
