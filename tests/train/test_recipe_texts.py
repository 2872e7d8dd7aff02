"""What recipes may say: each mistake is one line before any work. Recipes are built, not trained."""

import os
import random

import pytest
import yaml

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train.build import build
from wavedil.train.recipes import find_recipe, read_recipe

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning, about combinations of options


TEXTS = {
    "twice": (b"model: {}\ndata: {}\nmodel: {}\n", "line 3: the key 'model' is also in line 1"),
    "deep": (b"a: " + b"[" * 5000, "not YAML"),
    "nested": (b"a: " + b"[" * 80 + b"]" * 80, "nested more than"),
    "cycle": (b"a: &a [*a]", "part of"),
    "laugh": (
        b"a0: &a0 [1,1,1,1]\n" + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9))
        for n in range(1, 12)),
        "expand",
    ),
    "zero": (b"a: \0", "not YAML"),
    "tab": (b"a:\n\tb: 1\n", "not YAML"),
    "latin-1": ("a: \xe9".encode("latin-1"), "not UTF-8"),
    "utf-16": ("a: 1".encode("utf-16"), "not UTF-8"),
    "empty": (b"", "expected a mapping"),
    "list": (b"- a", "expected a mapping"),
    "long": (b"a: " + b"9" * 5000, "not YAML"),
    "tag": (b"a: !!int x", "not YAML"),
    "large": (b"#" * 2_000_000, "bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_no_recipe_is_one_line(tmp_path, refusal, name):
    text, message = TEXTS[name]
    (tmp_path / "recipe.yaml").write_bytes(text)
    with pytest.raises(WavedilError, match=message) as error:
        read_recipe(tmp_path / "recipe.yaml")
    assert "\n" not in str(error.value) and "recipe.yaml" in str(error.value)
    if "mapping" not in message:
        refusal(f"--model.network={tmp_path / 'recipe.yaml'}")


def test_bom_and_windows_line_ends_are_read(tmp_path):
    text = find_recipe("jsb").read_text(encoding="utf-8")
    (tmp_path / "recipe.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_recipe(tmp_path / "recipe.yaml") == read_recipe(find_recipe("jsb"))
    build(tmp_path / "recipe.yaml", tmp_path, [])


def test_ten_days_need_no_quotes(tmp_path):
    (tmp_path / "recipe.yaml").write_text("a: 10:00:00:00\nb: 012\nc: 1e-3\nd: -7")
    assert read_recipe(tmp_path / "recipe.yaml")[0] == {"a": "10:00:00:00", "b": 10, "c": 1e-3, "d": -7}


def test_folders_and_pipes_are_no_recipes(tmp_path, refusal):
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("folder.yaml", "pipe.yaml"):
        with pytest.raises(WavedilError, match=f"{name} is not a regular file"):
            read_recipe(find_recipe(str(tmp_path / name)))
    assert "not a regular file" in refusal(f"--model.network={tmp_path / 'pipe.yaml'}")


def mutate(text, generator):
    """A recipe with one change: a byte, a word, a line, or a value."""
    lines = text.splitlines()
    number = generator.choice([i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")])
    line, kind = lines[number], generator.randrange(6)
    if kind == 0:
        position = generator.randrange(len(line))
        line = line[:position] + chr(generator.randrange(256)) + line[position + 1 :]
    elif kind == 1:
        line = line.split(":")[0] + ": " + generator.choice(["-1", "0", ".nan", ".inf", "1e30", "true", "", "[]", "{}"])
    elif kind == 2:
        line = generator.choice(lines)
    elif kind == 3:
        position = generator.randrange(len(line))
        line = line[:position] + line[position + 1 :]
    elif kind == 4:
        line = f"{line}\n{line}"
    else:
        line = f"  {line}"
    return "\n".join([*lines[:number], line, *lines[number + 1 :]])


@pytest.mark.parametrize("name", ["pluck", "vocoder", "wavenet_vocoder", "nam", "jsb", "tiny", "depth"])
def test_a_changed_recipe_builds_or_is_one_line(tmp_path, name):
    generator, text = random.Random(name), find_recipe(name).read_text(encoding="utf-8")
    for _ in range(5):
        (tmp_path / "recipe.yaml").write_text(mutate(text, generator), encoding="utf-8")
        try:
            build(tmp_path / "recipe.yaml", tmp_path, [])
        except WavedilError as error:
            assert "\n" not in str(error)


def write(path, **recipe):
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_recipes_are_merged_and_the_last_names_the_run(tmp_path, small_recipe, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.yaml", data={"init_args": {"seed": 3, "workers": 0}}, trainer={"max_steps": 1})
    write(tmp_path / "last.yaml", model={"network": {"channels": 4}}, data={"seed": 5})
    words = ["-c", small_recipe({}, {"seed": 1}, {"max_steps": 9}), "-c", "mine.yaml", "--config=last.yaml"]
    assert main(["train", *words]) == 0
    err = capsys.readouterr().err
    assert "mine.yaml has names of version 0.1, read as: workers -> num_workers" in err
    record = read_recipe(tmp_path / "runs" / "last" / "config.yaml")[0]
    network = record["model"]["init_args"]["network"]["init_args"]
    assert (network["channels"], network["skip_channels"]) == (4, 8)
    assert (record["data"]["init_args"]["seed"], record["trainer"]["max_steps"]) == (5, 1)


def test_another_class_in_a_later_recipe_drops_the_arguments_of_the_first(tmp_path):
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}
    later = write(tmp_path / "later.yaml", model={"optimizer": optimizer}, trainer={"max_time": None})
    cli = build([find_recipe("pluck"), later], tmp_path, [])
    assert cli.config.model.init_args.optimizer.class_path == "torch.optim.SGD"
    assert cli.config.model.init_args.network.init_args.channels == 48 and cli.config.trainer.max_time is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {}\ntrainer: {}", "line 2: the key 'trainer' is also in line 1"),
        ("- 1", "is not a recipe"),
        ("trainer: {max_stepz: 1}", "did you mean --trainer.max_steps"),
        ("data: {init_args: {rot: x}}", "did you mean --data.root"),
        ("model: {class_path: torch.nn.Linear}", "expected a subclass of TrainingModule"),
    ],
)
def test_each_of_several_recipes_is_read_strictly(tmp_path, text, message):
    (tmp_path / "later.yaml").write_text(text)
    for order in ("pluck", "later"), ("later", "pluck"):
        paths = [{"pluck": find_recipe("pluck"), "later": tmp_path / "later.yaml"}[name] for name in order]
        if order[0] == "later" and "Linear" in text:  # replaced by the second
            continue
        with pytest.raises(WavedilError, match=message) as error:
            build(paths, tmp_path, [])
        assert "\n" not in str(error.value)
