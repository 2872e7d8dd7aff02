"""``wavedil bench fuzz`` in a small version, and its own detection of faults."""

import json
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from wavedil.bench import fuzz as module
from wavedil.bench.fuzz import fuzz, mutate
from wavedil.bench.fuzz_readers import READERS
from wavedil.cli import main
from wavedil.errors import WavedilError


@pytest.mark.parametrize("reader", READERS)
def test_mutated_files_are_read_or_refused(tmp_path, reader):
    """A few of each; all valid files are read first."""
    counts = fuzz([reader], 0.05, 3, tmp_path / "faults")[reader]
    assert counts["tries"] == counts["refused"] + counts["read"] >= 1, list((tmp_path / "faults").iterdir())


def test_mutations_depend_on_the_seed_only_and_differ():
    data = bytes(range(200)) + b'{"channels": 8}'
    results = [mutate(data, random.Random(seed)) for seed in range(100)]
    assert results == [mutate(data, random.Random(seed)) for seed in range(100)]
    assert len(set(results)) > 90 and sum(result == data for result in results) < 5
    assert all(isinstance(mutate(b"", random.Random(seed)), bytes) for seed in range(50))


def refuse(path):
    raise WavedilError("a.txt is bad: replace it")


def lines(path):
    raise OSError("two\nlines")


def index(path):
    return [][0]


def memory(path):
    return np.ones(2**40)


def exits(path):
    os._exit(3)


def hangs(path):
    time.sleep(100)


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (Path.read_bytes, "read"),
        (refuse, "refused"),
        (lines, "message: 'two"),
        (index, "IndexError: list index"),
        (memory, "MemoryError: "),
        (exits, "the process ended with status 3"),
        (hangs, "hangs"),
    ],
)
def test_faults_are_found_and_kept(tmp_path, monkeypatch, capsys, read, outcome):
    def read_mutated(path):
        return read(path) if path.read_bytes() != b"valid" else None

    monkeypatch.setattr(module, "SECONDS", 0.3 if read is hangs else 60)
    monkeypatch.setitem(module.READERS, "test", (lambda folder: (folder / "a.txt").write_bytes(b"valid"), read_mutated))
    counts = fuzz(["test"], 0.01, 0, tmp_path / "kept")["test"]
    if outcome in ("read", "refused"):
        assert counts["faults"] == 0 and counts[outcome] and not (tmp_path / "kept").exists()
    else:
        assert counts["faults"] and outcome in capsys.readouterr().err
        assert (tmp_path / "kept" / "test-1-a.txt").read_bytes() != b"valid"


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "fuzz", lambda readers, *args: {name: module.Counter(tries=2) for name in readers})
    assert main(["bench", "fuzz", "--minutes", "0.1"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["reader", "tries", "refused", "read", "faults"] and len(table) == len(READERS) + 2
    monkeypatch.setattr(module, "fuzz", lambda readers, *args: {name: module.Counter(faults=1) for name in readers})
    assert main(["bench", "fuzz", "--reader", "models", "--json", "faults.json"]) == 1
    result = json.loads(Path("faults.json").read_text())
    assert result["benchmark"] == "fuzz" and {"machine", "versions", "commit"} <= result.keys()
    assert result["rows"] == [{"name": "models", "unit": "faults", "median": 1, "iqr": 0, "ratio": None}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fuzz --reader x", "--reader is 'x': expected one of sound, "),
        ("fuzz --minutes 0", "--minutes is 0.0: expected"),
        ("fuzz --minutes nan", "--minutes is nan: expected"),
        ("fuzz --threads 2", "threads is not an option of fuzz"),
        ("fuzz --json .", ". is a folder"),
        ("kills --number 0", "number is 0: expected a positive integer"),
        ("trainers --minutes 0", "--minutes 0: expected positive numbers"),
        ("trainers --set lr", "--set lr: expected KEY=VALUE"),
        ("trainers --only wavedil --set model.lr_powr=8", "--model.lr_powr is unknown: did you mean"),
        ("trainers --recordings none.csv", "none.csv does not exist: expected DRY.wav,WET.wav"),
        ("inpaint --model pluck --recordings none", "none: no such folder"),
        ("inpaint --model pluck --recordings . --gap-ms 200", "--gap-ms 200: expected 0.1 to 100"),
        ("inpaint --model overdrive --recordings .", "expected a WaveNet"),
        ("kills --long", "long is not an option of kills"),
        ("kills --kinds x", "--kinds"),
        ("kills --folder .", "--folder . exists: choose another"),
        ("conv --minutes 3", "--minutes"),
    ],
)
def test_wrong_options_are_refused_in_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.iterdir())
