"""``wavedil completion``: the scripts complete in the shells that are installed."""

import os
import shutil
import subprocess

import pytest

from wavedil.cli.completion import SHELLS
from wavedil.cli.parser import COMMANDS
from wavedil.extras import install_extra
from wavedil.recipe_files import known_recipes

pytest.importorskip("shtab")

#: Command lines, and some of the words that complete the last one.
LINES = {
    "wavedil s": {"sample", "search", "segment", "surprise"},
    "wavedil search -c am": {"amp"},
    "wavedil sample --te": {"--temperature"},
    "wavedil -q sam": {"sample"},
    "wavedil train -c sp": {"speakers", "speech"},
    "wavedil train -c mi": {"mine.yaml"},
    "wavedil train -c speech --config ti": {"tiny"},
    "wavedil sample pl": {"pluck", "place"},
    "wavedil inspect place/": {"run"},
    "wavedil sample pluck --out pl": {"place"},
    "wavedil convert m": {"mine.yaml"},
    "wavedil sample --engine tr": {"triton"},
    "wavedil bench se": {"segment"},
}
BASH = """
source "$SCRIPT"
COMP_WORDS=($LINE) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_shtab_wavedil
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = """
source $SCRIPT
complete -C "$LINE" | string split -f1 \\t
"""
# Completion of zsh needs a terminal. compadd prints its matches, between null characters.
ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PROMPT=; fpath=($FOLDER $fpath); autoload -Uz compinit; compinit -u -d $FOLDER/dump
bindkey "^I" complete-word
null() { print -n "\\0" }
compprefuncs=(null)
finish() { null; exit }
comppostfuncs=(finish)
zstyle ":completion:*" insert-tab false
compadd() {
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return $?; fi
  local -a found
  builtin compadd -A found "$@"
  print -l -- $found
  builtin compadd "$@"
}'
zpty -w -n z "$LINE"$'\\t'
while zpty -r z text; do print -rn -- "$text"; done
"""


def completed(shell, line, script, folder):
    """The words that a shell offers, without slashes after folders."""
    program = {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell]
    environment = os.environ | {"SCRIPT": script, "LINE": line, "FOLDER": str(folder), "HOME": str(folder)}
    options = ["-f"] if shell == "zsh" else []
    result = subprocess.run(
        [shell, *options, "-c", program], env=environment, cwd=folder, capture_output=True, text=True, timeout=60
    )
    text = result.stdout.split("\0")[-2] if shell == "zsh" else result.stdout
    return {word.strip().rstrip("/").rpartition("/")[2] for word in text.splitlines() if word.strip()}, result


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete(run, shell, tmp_path):
    text = run("completion", shell).out
    assert all(name in text for name in (*COMMANDS, *known_recipes(), "with-prime", "kernel-size"))
    if shutil.which(shell) is None:
        assert shell != "bash"
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "_wavedil").write_text(text)
    (tmp_path / "place" / "run").mkdir(parents=True)
    (tmp_path / "mine.yaml").touch()
    for line, words in LINES.items():
        found, result = completed(shell, line, tmp_path / "_wavedil", tmp_path)
        assert found == words, (line, result)
        assert shell == "zsh" or result.stderr == ""


def test_completion_needs_a_known_shell_and_shtab(refused, monkeypatch):
    assert "SHELL is 'bsh': expected one of bash, zsh, fish; did you mean bash?" in refused("completion", "bsh")
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert refused("completion", "bash") == f"error: shtab is not installed: {install_extra('completion')}\n"
