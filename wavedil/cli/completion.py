"""``wavedil completion``."""

import argparse

from wavedil.errors import WavedilError, one_of

EXAMPLES = (
    "wavedil completion bash > ~/.local/share/bash-completion/completions/wavedil",
    "wavedil completion zsh > ~/.zfunc/_wavedil",
    "wavedil completion fish > ~/.config/fish/completions/wavedil.fish",
)
SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def run(arguments: argparse.Namespace) -> None:
    if arguments.shell not in SHELLS:
        raise WavedilError(f"SHELL is {arguments.shell!r}: expected {one_of(arguments.shell, SHELLS)}")
    import shtab

    from wavedil.cli.bench import NAMES, TRIALS
    from wavedil.cli.parser import complete_parser
    from wavedil.recipe_files import known_recipes

    parser = complete_parser()
    words = {
        ("train", "config"): f"ls -d *.yaml 2>/dev/null; echo {' '.join(known_recipes())}",
        ("bench", "name"): f"echo {' '.join((*NAMES, *TRIALS))}",
        ("completion", "shell"): f"echo {' '.join(SHELLS)}",
    }
    for command, subparser in parser.commands.items():
        for action in subparser._actions:
            if (command, action.dest) in words:
                action.complete = shtab.cmd(words[command, action.dest])
            elif action.metavar in ("RUN", "SHARDS"):
                action.complete = shtab.DIRECTORY
            elif (
                action.metavar in ("FILE", "MODEL", "DATA", "IMAGE", "IN", "OUT", "SRC", "DST") or action.dest == "out"
            ):
                action.complete = shtab.FILE
    print(shtab.complete(parser, shell=arguments.shell))
