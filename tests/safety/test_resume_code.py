"""A run folder from somebody else: resuming it runs no code that it names, and ends."""

import sys

import pytest
import yaml

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train.recipes import read_recipe

EVIL = {"class_path": "evil_module.Evil", "init_args": {"command": "x"}}
SYSTEM = {"class_path": "os.system", "init_args": {"command": "touch ran"}}


@pytest.fixture
def received(task, tmp_path, monkeypatch):
    """A run folder whose config.yaml is changed by a function; ``ran`` is a file that its code would write."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text("open('ran', 'w')\nclass Evil: ...\n")
    task.train("--trainer.max_steps=4")
    path = task.run / "config.yaml"

    def received(change):
        config = yaml.safe_load(path.read_text())
        change(config)
        path.write_text(yaml.safe_dump(config))
        sys.modules.pop("evil_module", None)

    return received


def names(*keys):
    """Functions that put a value at a key of the config."""

    def put(value):
        def change(config):
            node = config
            for key in keys[:-1]:
                node = node[key]
            node[keys[-1]] = value

        return change

    return put


PLACES = {
    "model": names("model"),
    "network": names("model", "init_args", "network"),
    "data": names("data"),
    "callbacks": lambda value: names("trainer", "callbacks")([value]),
    "callback": names("trainer", "callbacks"),
    "logger": names("trainer", "logger"),
    "loggers": lambda value: names("trainer", "logger")([value]),
    "plugins": names("trainer", "plugins"),
    "strategy": names("trainer", "strategy"),
    "profiler": names("trainer", "profiler"),
}


@pytest.mark.parametrize(
    "value", [EVIL, SYSTEM, {"class_path": "wavedil.writing.os.system"}], ids=["evil", "os", "via"]
)
@pytest.mark.parametrize("place", PLACES)
def test_code_that_a_run_names_does_not_run(task, received, tmp_path, place, value):
    received(PLACES[place](value))
    with pytest.raises(WavedilError) as error:
        task.resume("--trainer.max_steps=6")
    assert not (tmp_path / "ran").exists() and "evil_module" not in sys.modules
    assert "\n" not in str(error.value) and value["class_path"].rpartition(".")[0] in str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        SYSTEM,
        "os.system",
        "{class_path: os.system, init_args: {command: touch ran}}",
        {"class_path": "evil_module.Evil"},
        "evil_module.Evil",
        "wavedil.writing.os.system",
        "torch.optim.swa_utils.deepcopy",
        "nested.yaml",
        {"class_path": "wavedil.cli.parser.main", "init_args": {"argv": ["--version"]}},
    ],
)
def test_callables_that_a_run_names_do_not_run(tmp_path, monkeypatch, value):
    """The optimizer of a module of the package is any callable."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text("open('ran', 'w')\nclass Evil: ...\n")
    (tmp_path / "nested.yaml").write_text("{class_path: os.system, init_args: {command: touch ran}}")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {
        "model": {
            "class_path": "wavedil.train.MusicModule",
            "init_args": {
                "network": {
                    "class_path": "wavedil.audio.models.tcn.TCN",
                    "init_args": {
                        "in_channels": 88,
                        "out_channels": 88,
                        "channels": 8,
                        "dilations": "1",
                        "kernel_size": 2,
                    },
                },
                "optimizer": value,
            },
        },
        "data": {"class_path": "wavedil.train.MusicData"},
    }
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    import torch

    torch.save({"global_step": 1}, run / "checkpoints" / "last.ckpt")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--out", str(run), "--resume", "auto"]) == 2
    assert not (tmp_path / "ran").exists() and "evil_module" not in sys.modules


def test_modules_that_the_user_names_are_used(task, received, capsys):
    with pytest.raises(WavedilError, match=r"names line_task.LineModule.* add --import line_task"):
        task.resume("--trainer.max_steps=6", imports=())
    words = ["train", "--import", "line_task", "--out", str(task.run), "--resume", "auto", "--trainer.max_steps=6"]
    assert main(words) == 0
    assert main(["--import", "line_task", *words[:1], *words[3:-1], "--trainer.max_steps=8"]) == 0


def test_names_of_files_are_no_code(task, received):
    received(names("trainer", "callbacks")([{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}]))
    received(
        names("trainer", "logger")(
            {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "signal.wav"}}
        )
    )
    task.resume("--trainer.max_steps=6")


NINES = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        NINES,
        MERGES,
        "model: &m\n  class_path: x\n  init_args: *m\n",
        "- &a [*a]",
        "a: " + "[" * 5000,
        "a: |\n" + "".join(f"  {line}\n" for line in NINES.splitlines()),
        "x: " + "y" * 2_000_000,
        "a: " + "9" * 5000,
        "model: {class_path: [1]}",
        "",
        "a: \0",
    ],
    ids=["nines", "merges", "cycle", "list", "deep", "string", "long", "number", "type", "empty", "zero"],
)
def test_a_config_that_never_ends_is_refused(tmp_path, text):
    from wavedil.train.recipes import module_class

    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(WavedilError) as error:
        module_class(path)
    assert "\n" not in str(error.value) and "config.yaml" in str(error.value)


def test_a_file_that_never_ends_is_refused(task, received):
    received(names("model", "init_args", "network")("nines.yaml"))
    (task.run / "nines.yaml").write_text(NINES)
    with pytest.raises(WavedilError, match="aliases expand"):
        task.resume("--trainer.max_steps=6")


def test_a_value_of_any_type_is_not_built(task, received, tmp_path):
    text = (tmp_path / "line_task.py").read_text()
    (tmp_path / "line_task.py").write_text(text.replace("network: nn.Module)", "network: nn.Module, extra=None)"))
    sys.modules.pop("line_task")
    received(names("model", "init_args", "extra")(SYSTEM))
    with pytest.raises(WavedilError, match="os.system"):
        task.resume("--trainer.max_steps=6")
    assert not (tmp_path / "ran").exists()


def test_anchors_of_a_recipe_are_allowed(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert read_recipe(tmp_path / "a.yaml")[0]["c"] == {"x": 1, "y": 2}
