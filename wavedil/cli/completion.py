"""``wavedil completion``."""

import argparse
from collections.abc import Sequence

from wavedil.errors import WavedilError, one_of

EXAMPLES = (
    "wavedil completion bash > ~/.local/share/bash-completion/completions/wavedil",
    "wavedil completion zsh > ~/.zfunc/_wavedil",
    "wavedil completion fish > ~/.config/fish/completions/wavedil.fish",
)
SHELLS = ("bash", "zsh", "fish")
_FILES = ("FILE", "DATA", "IMAGE", "IN", "OUT", "DST")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Create the folder of the file first, and start a new shell afterwards. bash needs the package "
        "bash-completion; without it, put the script anywhere and source it in ~/.bashrc. zsh needs the lines "
        "fpath+=~/.zfunc and autoload -Uz compinit && compinit in ~/.zshrc, in this order."
    )
    parser.add_argument("shell", metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def run(arguments: argparse.Namespace) -> None:
    if arguments.shell not in SHELLS:
        raise WavedilError(f"SHELL is {arguments.shell!r}: expected {one_of(arguments.shell, SHELLS)}")
    import shtab

    from wavedil.audio.generation.engines import ENGINES
    from wavedil.cli.bench import NAMES, TRIALS
    from wavedil.cli.parser import complete_parser
    from wavedil.interop.formats import NAMES as FORMATS
    from wavedil.packaged import packaged_names
    from wavedil.recipe_files import known_recipes

    parser = complete_parser()
    words = {
        "config": _complete("recipe", list(known_recipes()), files=True),
        "engine": _complete("engine", ["auto", *ENGINES]),
        "precision": _complete("precision", ["fp32", "bf16", "int8"]),
        "resume": _complete("resume", ["auto"]),
        "format": _complete("format", FORMATS),
        "shell": _complete("shell", SHELLS),
        ("bench", "name"): _complete("bench", [*NAMES, *TRIALS]),
    }
    model = _complete("model", packaged_names(), files=True)
    for command, subparser in parser.commands.items():
        for action in subparser._actions:
            known = words.get((command, action.dest)) or words.get(action.dest)
            if known is not None:
                action.complete = known
            elif action.metavar == "SRC" or "MODEL" in str(action.metavar).split("|"):
                action.complete = model
            elif action.metavar in ("RUN", "SHARDS"):
                action.complete = shtab.DIRECTORY
            elif action.metavar in _FILES or action.dest == "out":
                action.complete = shtab.FILE
    print(shtab.complete(parser, shell=arguments.shell))


def _complete(key: str, words: Sequence[str], files: bool = False) -> dict:
    """Completion by ``words``, and by the names of files: functions of each shell, for shtab.

    shtab's own ``cmd`` takes no files, and in fish all words are one.
    """
    # The bash script completes paths, with slashes after folders, if the function's name has "_file".
    name, text = f"_wavedil_{key}" + "_or_file" * files, " ".join(words)
    bash = [f"compgen -W '{text}' -- \"$1\""] + ['compgen -f -- "$1"'] * files
    zsh = [f"_alternative 'words:{key}:({text})'" + " 'files:file:_files'" * files]
    fish = [f"printf '%s\\n' {text}"] + ["__fish_complete_path (commandline -ct)"] * files
    return {
        "bash": name,
        "zsh": name,
        "fish": f"({name})",
        "preamble": {
            "bash": "\n  ".join([f"{name}() {{", *bash]) + "\n}",
            "zsh": "\n  ".join([f"{name}() {{", *zsh]) + "\n}",
            "fish": "\n  ".join([f"function {name}", *fish]) + "\nend",
        },
    }
