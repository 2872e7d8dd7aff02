"""The ``wavedil`` command: finds the command's module, parses its arguments and runs it.

A command is a module with ``add_arguments(parser)`` and ``run(arguments)``, which may return an exit status. It may
also have

- ``EXAMPLES``: command lines that its help shows;
- ``add_model_arguments(parser, words)``: adds options that depend on the model that the command line names;
- ``take_unknown(arguments, words)``: uses the words that the parser does not know; it may return those to refuse.

Commands import heavy modules inside these functions: ``wavedil --help`` imports neither torch nor numpy.
"""

import argparse
import logging
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Collection, Sequence
from contextlib import suppress
from importlib import import_module, metadata
from types import ModuleType
from typing import Any, NoReturn

from wavedil.cli.options import add_common_options, import_named_modules
from wavedil.cli.streams import prepare_streams, printing
from wavedil.errors import WavedilError, first_line, one_of, printable, shown, similar
from wavedil.progress import set_quiet

#: Module, or its import path, and one-line help of each command.
COMMANDS: dict[str, tuple[str | ModuleType, str]] = {
    "train": ("wavedil.cli.train", "Train a model with a recipe (default: pluck, on built-in audio)."),
    "sample": ("wavedil.cli.sample", "Generate audio clips with a model."),
    "process": ("wavedil.cli.process", "Apply an effect (amp, pedal, denoiser) to audio files."),
    "live": ("wavedil.cli.live", "Apply an effect live, from an audio input device to an output device."),
    "segment": ("wavedil.cli.segment", "Segment images: write label maps and color overlays, or maps of values."),
    "evaluate": ("wavedil.cli.evaluate", "Evaluate a model: bits per sample, ESR, nats per step, or mean IoU."),
    "compress": ("wavedil.cli.compress", "Compress an audio file by arithmetic coding with a model's probabilities."),
    "expand": ("wavedil.cli.expand", "Decompress a file that wavedil compress wrote."),
    "surprise": (
        "wavedil.cli.surprise",
        "Find clicks, cuts and other parts of a recording that a model finds unlikely.",
    ),
    "inpaint": ("wavedil.cli.inpaint", "Fill short gaps in a recording."),
    "check": (
        "wavedil.cli.check",
        "Check a data set for broken, silent, clipped and duplicate files and missing masks.",
    ),
    "pack": ("wavedil.cli.pack", "Pack a data set into a few large files, for network drives and remote storage."),
    "inspect": (
        "wavedil.cli.inspect",
        "Show the receptive field, cost and gridding of a dilation schedule or a model.",
    ),
    "search": (
        "wavedil.cli.search",
        "Search dilation schedules for a cost and a receptive field: ranking, short training runs.",
    ),
    "convert": ("wavedil.cli.convert", "Convert another program's weights to a model folder."),
    "export": ("wavedil.cli.export", "Export a model to .nam, ONNX or C."),
    "models": ("wavedil.cli.models", "List the packaged models, which load by name."),
    "report": ("wavedil.cli.report", "Write the HTML report of a run, or compare runs."),
    "doctor": ("wavedil.cli.doctor", "Check this installation: versions, devices, extras, fast code paths."),
    "completion": ("wavedil.cli.completion", "Print the tab-completion script for a shell."),
    "bench": ("wavedil.cli.bench", "Benchmark wavedil, plain torch and other installed packages on this machine."),
}
_format_warning = warnings.formatwarning
#: Entry points of this group add commands: the name is the command's, the value is the module's.
ENTRY_POINTS = "wavedil.commands"


def register_command(name: str, module: str | ModuleType, help: str) -> None:
    """Adds a command. Call it in a module that ``wavedil --import MODULE`` imports, or use an entry point.

    Args:
        name: the word after ``wavedil``.
        module: a module with ``add_arguments`` and ``run``, or its import path, which is imported when the command is
            used.
        help: one line for ``wavedil --help``.
    """
    COMMANDS[name] = (module, help)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns 0, or what the command returns; 2 after an error in one line; 130 after Ctrl-C."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read by GNU OpenMP when torch is loaded: a waiting thread spins for about 0.1 ms before it sleeps, instead of
        # 10 ms. While another process uses one of two cores, long spinning slows training 5 to 10 times
        # (docs/measurements.md).
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    prepare_streams()
    messages, logger = _Messages(), logging.getLogger("wavedil")
    logger.addHandler(messages)
    logger.setLevel(logging.INFO)
    format_warning = warnings.formatwarning
    warnings.formatwarning = _warning_line
    words, options = sys.argv[1:] if argv is None else list(argv), set()
    try:
        status = 0
        with printing():
            status = _run(words, options)
        return status
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "wavedil"):
            raise
        from wavedil.extras import extra_of, install_extra

        extra = extra_of(package)
        return _fail(f"{error.name} is not installed{f': {install_extra(extra)}' if extra else ''}")
    except (WavedilError, OSError) as error:
        return _fail(_about_option(_line(error), words, options), getattr(error, "status", 2))
    except MemoryError as error:
        return _fail(f"not enough memory{f' ({first_line(error)})' if str(error) else ''}: ask for less")
    except KeyboardInterrupt:
        return _fail("\ninterrupted", 130, prefix="")
    finally:
        warnings.formatwarning = format_warning
        logger.removeHandler(messages)
        set_quiet(False)


def _warning_line(message: Warning | str, category: type[Warning], *place: Any) -> str:
    """A warning of this package in one line, without the line of code that gave it."""
    if category is UserWarning:
        return f"warning: {printable(message)}\n"
    return _format_warning(message, category, *place)


def _fail(message: str, status: int = 2, prefix: str = "error: ") -> int:
    with suppress(OSError):  # nobody may read it
        print(f"{prefix}{message}", file=sys.stderr)
    return status


def _line(error: BaseException) -> str:
    """The message in one line. Errors of the system are file and reason, without their number."""
    if isinstance(error, OSError) and error.strerror:
        path = error.filename2 or error.filename
        return printable(error.strerror if path is None else f"{os.fsdecode(path)}: {error.strerror}")
    return printable(re.sub(r"\[Errno \d+\] ", "", " ".join(str(error).split())))


def _about_option(message: str, words: Sequence[str], options: Collection[str]) -> str:
    """A message about a Python argument, ``top_k is -1``, as one about the command's option: ``--top-k is -1``.

    Python arguments in the rest of the message become options, too: ``lower field`` becomes ``lower --field``. Words
    that the user gave as values, e.g. the name of a file, are not changed.
    """

    def as_option(name: str) -> str:
        option = f"--{name.replace('_', '-')}"
        return option if name.isidentifier() and option in options and name not in values else name

    values = [word.partition("=")[2] if word.startswith("-") else word for word in words]
    name, _, rest = message.partition(" ")
    given = {word.partition("=")[0] for word in words}
    if (option := as_option(name)) in given or (option != name and re.match(r"is |has |'", rest)):
        message = f"{option} {re.sub(' or None$', ', or leave it out', rest)}"
    remedy = r"\b(add|but|leave|lower|omit|set) ([a-z_]+)\b(?! of)"
    return re.sub(remedy, lambda found: f"{found[1]} {as_option(found[2])}", message)


def _with_values(words: Sequence[str], options: Collection[str]) -> list[str]:
    """Keys of recipes, which are none of the command's ``options``, with their values, ``--data.root=DIR``.

    argparse would take DIR as an argument of the command.
    """
    joined: list[str] = []
    for word in words:
        is_key = bool(joined) and re.fullmatch(r"--\w+[._][\w.]*\+?", joined[-1])
        if is_key and joined[-1] not in options and not re.match(r"--?[A-Za-z]", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _run(words: list[str], options: set[str]) -> int:
    """Runs a command, and adds its options to ``options``."""
    try:
        os.getcwd()
    except OSError:  # MKL would end the process
        raise WavedilError("the working folder does not exist any more: change to another") from None
    if any("\0" in word for word in words):
        raise WavedilError(f"{next(word for word in words if chr(0) in word)!r}: no argument may hold a null character")
    imports = import_named_modules(words)  # they may register commands, and classes whose options the parser needs
    parser = build_parser(words)
    _check_command(words)
    options.update(parser.chosen._option_string_actions if parser.chosen else ())
    arguments, unknown = parser.parse_known_args(_with_values(words, options))
    if arguments.command is None:
        if unknown:
            parser.refuse(unknown)
        parser.print_help()
        return 0
    module = _module(arguments.command)
    if unknown:
        _refuse_renamed(unknown)
        refused = module.take_unknown(arguments, unknown) if hasattr(module, "take_unknown") else unknown
        if refused:
            parser.chosen.refuse(refused)
    arguments.imports = imports
    quiet, verbose = (hasattr(arguments, name) for name in ("quiet", "verbose"))
    set_quiet(quiet)
    logging.getLogger("wavedil").setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    status = module.run(arguments)
    return status if isinstance(status, int) else 0


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser for a command line. Imports only the command that ``words`` name and adds its arguments."""
    from wavedil import __version__

    parser = _Parser(prog="wavedil", description="Audio models and dense prediction with dilated convolutions.")
    parser.add_argument("--version", action="version", version=__version__, help="print the version and exit")
    add_common_options(parser)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    chosen, parser.chosen, parser.commands = _command_index(words), None, {}
    for name, (_, text) in _commands().items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        parser.commands[name] = subparser
        if chosen is not None and words[chosen] == name:
            module, parser.chosen = _module(name), subparser
            module.add_arguments(subparser)
            add_common_options(subparser)
            if hasattr(module, "add_model_arguments"):
                module.add_model_arguments(subparser, words[chosen + 1 :])
            subparser.epilog = _epilog(subparser.epilog, getattr(module, "EXAMPLES", ()))
    return parser


def complete_parser() -> argparse.ArgumentParser:
    """The parser with the arguments of all commands."""
    parser = build_parser()
    for name, subparser in parser.commands.items():
        _module(name).add_arguments(subparser)
        add_common_options(subparser)
    return parser


def _epilog(text: str | None, examples: Sequence[str]) -> str:
    """The end of a command's help: a text, wrapped, and examples, which are not."""
    parts = [text if "\n" in text else textwrap.fill(text, 98)] if text else []
    if examples:
        parts.append("\n  ".join(["examples:", *examples]))
    return "\n\n".join(parts)


def _check_command(words: Sequence[str]) -> None:
    """Raises WavedilError for a command that does not exist."""
    chosen = _command_index(words)
    if chosen is not None and words[chosen] not in _commands():
        raise WavedilError(f"command {words[chosen]!r} is unknown: expected {one_of(words[chosen], _commands())}")


def _command_index(words: Sequence[str]) -> int | None:
    """Position of the command: the first word that is neither an option nor the value of ``--import``."""
    for index, word in enumerate(words):
        if not word.startswith("-") and (index == 0 or words[index - 1] != "--import"):
            return index
    return None


def _commands() -> dict[str, tuple[str | ModuleType, str]]:
    added = {
        point.name: (point.value, f"(from the package {point.dist.name if point.dist else point.value})")
        for point in metadata.entry_points(group=ENTRY_POINTS)
    }
    return added | COMMANDS


def _module(name: str) -> Any:
    path, _ = _commands()[name]
    if isinstance(path, ModuleType):
        return path
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise WavedilError(f"command {name}: module {path} is not installed") from None


def _refuse_renamed(words: Sequence[str]) -> None:
    from wavedil.renames import OPTIONS

    for word in words:
        old = word.partition("=")[0]
        if old in OPTIONS:
            raise WavedilError(f"{old} is now called {OPTIONS[old]}")


class _Messages(logging.Handler):
    """Prints the package's log messages as lines on standard error, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def _integer(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError  # the parser names option and value
    return value


class _StoreOnce(argparse._StoreAction):
    """Stores the value of an option, and refuses a second one: argparse would ignore the first."""

    given = False

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        if option_string and self.given:
            parser.error(f"{option_string} is given twice: keep one of them")
        self.given = option_string is not None
        super().__call__(parser, namespace, values, option_string)


def _name(action: argparse.Action) -> str:
    """The option or argument in a message."""
    return "/".join(action.option_strings) or str(action.metavar or action.dest)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help of at most 100 columns, with the names of long options on the line of their text."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=min(100, shutil.get_terminal_size().columns - 2))


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are WavedilErrors, and which refuses abbreviated options."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs, allow_abbrev=False, formatter_class=_HelpFormatter)
        self.register("type", int, _integer)
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Raises WavedilError for words that the parser does not know; the message suggests a similar option."""
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        if not options:
            self.error(f"unexpected argument {words[0]!r}")
        found = similar(options[0], self._option_string_actions)
        self.error(f"{options[0]} is unknown" + (f": did you mean {found}?" if found else ""))

    def _get_values(self, action: argparse.Action, words: Sequence[str]) -> Any:
        # Path("") is the working folder. The arguments of a subcommand are checked by the parser of the subcommand.
        if "" in words and action.nargs not in (argparse.PARSER, argparse.REMAINDER):
            self.error(f"{_name(action)} is empty: expected a value" + ", or leave it out" * (not action.required))
        return super()._get_values(action, words)

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        try:
            return super()._get_value(action, text)
        except argparse.ArgumentError:
            if action.type not in (int, float):
                raise
            expected = "an integer of at most 64 bits" if action.type is int else "a number"
            raise WavedilError(f"{_name(action)} is {shown(text)}: expected {expected}") from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise WavedilError(f"{_name(action)} is {shown(value)}: expected {one_of(value, action.choices)}")

    def error(self, message: str) -> NoReturn:
        message = re.sub("^argument ([^:]+): '", r"\1 is '", message)  # as the other errors about options
        message = message.removeprefix("argument ")
        help = "" if "--help" in message else f"; see {self.prog} --help"
        raise WavedilError(f"{message}{help}")
