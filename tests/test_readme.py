"""The README is true: its Python runs, its shell commands parse, its test command is the one that CI runs."""

import re
import shlex
from pathlib import Path

import pytest

from wavedil.audio import Effect, WaveNet, save
from wavedil.audio.models.tcn import TCN
from wavedil.cli import build_parser
from wavedil.vision import Conv1x1Head, PixelUnshuffle, Segmenter

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RECIPES = (ROOT / "recipes" / "README.md").read_text()


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 4
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "sound.wav").stat().st_size == 44 + 2 * 800


#: Lines of the README, and of the recipes' page where models are evaluated.
LINES = [re.split(r"\s#", line)[0].strip() for line in README.splitlines() if line.startswith("wavedil ")]
LINES += [re.split(r"\s#", line)[0].strip() for line in RECIPES.splitlines() if line.startswith("wavedil evaluate ")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with models in ``runs/NAME/model``, of the kind that the recipe of this name trains."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("speech", "vocoder", "digits", "speakers", "music"):
        save(WaveNet(4, 4, "1"), folder / "runs" / name / "model")
    for name in ("tiny", "frontend", "context", "joint"):
        save(Segmenter(PixelUnshuffle(4), Conv1x1Head(48, 2), num_classes=2), folder / "runs" / name / "model")
    save(Effect(4, 4, "1"), folder / "runs" / "amp" / "model")
    save(TCN(88, 88, 4, "1"), folder / "runs" / "jsb" / "model")
    return folder


@pytest.mark.parametrize("line", LINES)
def test_shell_lines_parse(monkeypatch, runs, line):
    monkeypatch.chdir(runs)
    words = shlex.split(line)[1:]
    arguments, unknown = build_parser(words).parse_known_args(words)
    if words[0] in ("evaluate", "segment"):
        assert Path(arguments.model, "config.json").is_file(), f"add a model to the fixture: {arguments.model}"
    assert not unknown or words[0] == "train"


def test_options_of_evaluate_are_checked_by_the_lines_above(monkeypatch, runs):
    monkeypatch.chdir(runs)
    words = "evaluate runs/amp/model pedal.csv --crf".split()
    assert build_parser(words).parse_known_args(words)[1] == ["--crf"]


def test_ci_runs_the_readmes_test_command():
    command = "pip install uv && uv run pytest"
    assert command in README
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
