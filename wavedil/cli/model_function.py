"""Commands that call a function of the model's class, whose arguments are the command's options."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from wavedil.cli import options
from wavedil.errors import WavedilError, one_of, with_article


@dataclass(frozen=True)
class ModelFunction:
    """The function that a static method of the model's class returns.

    Its keyword-only arguments, except ``progress``, are options of the command.

    Args:
        method: the name of the static method.
        missing: end of the message about a class without this method, e.g. ``"has no evaluation"``.
    """

    method: str
    missing: str

    def find(self, cls: Any, folder: str) -> Callable[..., Any]:
        """The function of a class. Raises WavedilError, which names the model ``folder``, if the class has none."""
        if not hasattr(cls, self.method):
            raise WavedilError(f"{folder} holds {with_article(cls)}, which {self.missing}")
        return getattr(cls, self.method)()

    def add_options(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        """Adds the options of the first model among ``words``; none if there is no model."""
        from wavedil.packaged import is_model

        folder = next((found for word in words if is_model(found := _found(word))), None)
        if folder is None:
            return
        from wavedil.weights import model_class

        cls = model_class(folder)
        if hasattr(cls, self.method):
            parser.epilog = None
            options.add_function_options(parser, self.find(cls, folder), f"options of {with_article(cls)}")

    def refuse_unknown(self, arguments: argparse.Namespace, words: Sequence[str]) -> NoReturn:
        """Raises WavedilError for words that are not options of the model; the message lists its options."""
        from wavedil.weights import model_class

        cls = model_class(arguments.model)
        known = options.function_options(self.find(cls, arguments.model))
        unknown = next((word.partition("=")[0] for word in words if word.startswith("--")), None)
        if unknown is None:
            raise WavedilError(
                f"unknown arguments: {' '.join(words)}; options of {with_article(cls)}: {', '.join(known) or 'none'}"
            )
        raise WavedilError(f"{unknown} is not an option of {with_article(cls)}: expected {one_of(unknown, known)}")

    def check_options(self, model: Any, arguments: argparse.Namespace) -> None:
        """Raises WavedilError for parsed options that other models take and this one does not."""
        known = options.function_options(self.find(type(model), arguments.model))
        common = {"--command", "--model", "--imports", "--out", "--device", "--quiet", "--verbose"}
        for given in map(options.option, vars(arguments)):
            if given not in (*known, *common):
                raise WavedilError(
                    f"{given} is not an option of {with_article(model)}: expected {one_of(given, known)}"
                )

    def __call__(self, model: Any, arguments: argparse.Namespace, *inputs: Any, **others: Any) -> Any:
        """Calls the model's function with ``inputs``, ``others`` and the parsed options."""
        function = self.find(type(model), arguments.model)
        return function(model, *inputs, **others, **options.function_arguments(function, arguments))


def _found(word: str) -> str:
    try:
        return options.find_model(word)
    except argparse.ArgumentTypeError:  # the parser reports it
        return word
