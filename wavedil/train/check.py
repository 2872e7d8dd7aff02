"""Checks the data of a recipe: the function behind ``wavedil check -c RECIPE``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from wavedil.data_check import DataCheck
from wavedil.errors import WavedilError
from wavedil.train.build import build
from wavedil.train.parser_errors import errors_name_options
from wavedil.train.recipes import check_given_once, find_recipes
from wavedil.train.run import silence_lightning


def check_recipe(
    recipes: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> DataCheck:
    """Checks the data that a recipe trains on, with its folders, format, classes and split.

    Args:
        recipes: names or paths of recipes; later ones override keys of earlier ones.
        overrides: keys of the recipe as options, e.g. ``["--data.root=street"]``.
        progress: called with the numbers of finished and of all items.

    Raises:
        WavedilError: the recipe cannot be used, has built-in data, or data that have no check.
    """
    check_given_once(overrides)
    silence_lightning()
    with TemporaryDirectory() as folder:
        cli = build(find_recipes(recipes), Path(folder), overrides)
    data = cli.datamodule
    if not hasattr(data, "check_data"):
        name = type(data).__name__
        raise WavedilError(
            f"-c {recipes[-1]}: wavedil check cannot read {name}; its files are checked when training starts"
        )
    if getattr(data, "root", True) is None:
        raise WavedilError(f"-c {recipes[-1]}: its data are built in; name your own as DATA or --data.root")
    with errors_name_options(cli.config):
        return data.check_data(cli.model, progress)
