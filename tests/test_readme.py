"""The README is true: its Python runs, its shell commands parse, its test command is the one that CI runs."""

import re
import shlex
from pathlib import Path

import pytest

from wavedil.cli.main import _parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 4
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "sound.wav").stat().st_size == 44 + 2 * 800


COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("wavedil ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_shell_lines_parse(line):
    words = shlex.split(line)[1:]
    _, rest = _parser().parse_known_args(words)
    assert not rest or words[0] == "train"


def test_ci_runs_the_readmes_test_command():
    command = "pip install uv && uv run pytest"
    assert command in README
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
