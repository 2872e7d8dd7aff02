"""Outputs of all commands: they replace no input, two commands do not write one file at once, and the terminal."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wavedil.audio import Effect, WaveNet, load, save
from wavedil.audio.data import audio_files
from wavedil.audio.models.nam import NAM, LayerArray
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.interop.nam import write_nam
from wavedil.outputs import check_folder_name, check_outputs, claim_file, claim_folder
from wavedil.vision import Conv1x1Head, Segmenter, SmallBackbone


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    save(WaveNet(8, 8, "1,2", sample_rate=8000), folder / "wavenet")
    save(Effect(4, 4, "1,2", sample_rate=8000), folder / "effect")
    nam = NAM([LayerArray(1, 4, 1, "1,2", head_bias=True)], sample_rate=8000)
    save(nam, folder / "nam")
    write_nam(nam, folder / "x.nam")
    save(Segmenter(SmallBackbone(8, 4), Conv1x1Head(8, 2), num_classes=2, classes=["a", "b"]), folder / "segmenter")
    return folder


@pytest.fixture
def place(tmp_path, models, monkeypatch):
    """The working folder, with inputs and links to the models."""
    for name in ("wavenet", "effect", "nam", "segmenter"):
        (tmp_path / name).mkdir()
        for file in (models / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "x.nam").write_bytes((models / "x.nam").read_bytes())
    audio_files.write(tmp_path / "in.wav", 0.1 * torch.sin(torch.arange(300.0))[None], 8000)
    audio_files.write(tmp_path / "clips" / "clip_000_seed0.wav", 0.1 * torch.sin(torch.arange(300.0))[None], 8000)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((9, 12, 3), 90, np.uint8)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "link.wav").symlink_to("in.wav")
    (tmp_path / "hard.wav").hardlink_to(tmp_path / "in.wav")
    (tmp_path / "other").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    """All files and folders with the bytes of the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("process effect in.wav in.wav", "is the input in.wav"),
        ("process effect in.wav ./photos/../in.wav", "is the input in.wav"),
        ("process effect in.wav link.wav", "is the input in.wav"),
        ("process effect link.wav in.wav", "is the input link.wav"),
        ("process effect hard.wav in.wav", "is the input hard.wav"),
        ("process effect in.wav effect/out.wav", "is in the input folder effect"),
        (
            "sample wavenet --seconds .01 --prime clips/clip_000_seed0.wav --out clips",
            "is the input clips/clip_000_seed0.wav",
        ),
        ("sample wavenet --seconds .01 --out wavenet", "--out wavenet is the model folder"),
        ("segment segmenter photos --out photos", "is the input photos/a.png"),
        ("segment segmenter photos/a.png --out other", "is the input photos/a.png"),
        ("segment segmenter photos photos/a.png --out new", "would both be written as a.png"),
        ("segment segmenter photos --out segmenter/", "--out segmenter/ is the model folder"),
        ("export nam nam/x.nam", "is in the input folder nam"),
        ("check clips --list clips/clip_000_seed0.wav", "is in the input folder clips"),
        ("check clips --plot clips/a.png", "is in the input folder clips"),
        ("convert x.nam x.nam", "is the input x.nam"),
        ("convert x.nam .", "contains the input x.nam"),
        ("inspect nam --plot nam/a.png", "is in the input folder nam"),
        ("train --data.root clips --out clips/run", "is in the input folder clips"),
    ],
)
def test_an_output_that_is_an_input_is_refused_and_nothing_is_written(refused, place, words, message):
    before = contents(place)
    assert message in refused(*words.split())
    assert contents(place) == before


@pytest.mark.parametrize(
    "outputs", [("a.png", "A.png"), ("é.png", "e\u0301.png"), ("a.png", "./b/../a.png"), ("a.png", "a.png/b.png")]
)
def test_outputs_of_one_name_are_refused(tmp_path, outputs):
    with pytest.raises(WavedilError, match="same name|a file and a folder"):
        check_outputs([f"{tmp_path}/{name}" for name in outputs])


def test_a_command_may_be_repeated_and_reads_none_of_its_results(run, place):
    for _ in range(2):
        run("sample", "wavenet", "--seconds", 0.01, "--out", "new")
        run("process", "effect", "in.wav", "out.wav")
        run("segment", "segmenter", "photos", "--out", "photos/labeled")
        run("export", "nam", "y.nam")
        run("convert", "x.nam", "converted")
        run("inspect", "1,2", "--plot", "picture.png")
    assert sorted(os.listdir("photos/labeled")) == ["a.png", "a_overlay.png"]
    assert sorted(os.listdir("new")) == ["clip_000_seed0-2.wav", "clip_000_seed0.wav", "index.html"]
    assert not [name for name in os.listdir() if name.startswith(".")]


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ("sample wavenet --seconds .01 --out new", "new"),
        ("segment segmenter photos --out new", "new"),
        ("process effect in.wav out.wav", "out.wav"),
        ("export nam y.nam", "y.nam"),
        ("convert x.nam new", "new"),
        ("inspect 1,2 --plot a.png", "a.png"),
        ("bench conv --json a.json", "a.json"),
    ],
)
def test_an_output_that_another_process_writes_is_refused(refused, place, words, output):
    claim = claim_folder(output, []) if words.split()[0] in ("sample", "segment") else claim_file(output)
    with claim:
        assert f"{output} is being written by another process" in refused(*words.split())
    assert not (place / output).exists()


def test_of_many_claims_at_once_one_succeeds_at_a_time(tmp_path):
    active, most, errors, barrier = [], [], [], threading.Barrier(16)

    def work():
        barrier.wait()
        for _ in range(30):
            try:
                with claim_file(tmp_path / "new" / "a.wav"):
                    active.append(1)
                    most.append(len(active))
                    active.pop()
            except WavedilError:
                errors.append(1)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) + len(errors) == 16 * 30 and not list(tmp_path.glob("*/*"))


SAMPLE, PROCESS = "sample wavenet --seconds .01 --out new", "process effect in.wav out.wav"


@pytest.mark.parametrize("command", [SAMPLE, PROCESS, "segment segmenter photos --out new", "evaluate wavenet in.wav"])
@pytest.mark.parametrize("device", ["meta", "cuda:99", "abacus", "cpu:x", "xla"])
def test_devices_are_checked(refused, place, command, device):
    before = contents(place)
    assert f"device {device!r}" in refused(*command.split(), f"--device={device}")
    assert contents(place) == before


LONG = "x" * 300
BAD_WORDS = [
    f"{SAMPLE} --num {10**30}",
    f"{SAMPLE} --num {2**40}",
    f"{SAMPLE} --num 0",
    f"{SAMPLE} --top-k {10**30}",
    *(f"{SAMPLE} --seconds {value}" for value in ("nan", "inf", "-1", "1e30")),
    *(f"{SAMPLE} --seed={value}" for value in (2**70, "x")),
    *(f"segment segmenter photos --tile={value}" for value in (0, -1, 10**30)),
    *(f"segment segmenter photos --scales={value}" for value in (0, 1e30, "nan", "inf")),
    *(
        words.format(path)
        for path in (LONG, "in.wav/x", "a\0b", "/proc/x")
        for words in (
            "sample wavenet --seconds .01 --out {}",
            "process effect in.wav {}.wav",
            "process effect {} out.wav",
            "segment segmenter photos --out {}",
            "segment segmenter {}",
            "export nam {}.nam",
            "convert x.nam {}",
            "inspect 1,2 --plot {}.png",
            "report {}",
        )
    ),
    "process effect in.wav photos/a.png",
    "export nam photos",
    "inspect 1,2 --plot photos",
    "bench conv --json /",
    "sample in.wav",
    "report in.wav",
]


@pytest.mark.parametrize("words", BAD_WORDS, ids=lambda words: ascii(words)[:60])
def test_odd_values_are_refused_in_one_line(refused, place, words):
    before = contents(place)
    message = refused(*words.split(" "))
    assert "Errno" not in message and contents(place) == before


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (f"{SAMPLE}/clip.wav", "new/clip.wav"),
        (PROCESS, "out.wav"),
        ("process effect in.wav out.flac", "out.flac"),
        ("process effect in.wav out.ogg", "out.ogg"),
        ("segment segmenter photos --out new", "new/a.png"),
        ("export nam y.nam", "y.nam"),
        ("convert x.nam new", "new/model.safetensors"),
        ("inspect 1,2 --plot a.png", "a.png"),
        ("inspect 1,2 --plot a.pdf", "a.pdf"),
    ],
)
def test_a_full_disk_keeps_the_old_file_and_leaves_no_other(refused, place, capsys, words, output):
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    assert main(words.split()) == 0
    capsys.readouterr()
    before = contents(place)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
    try:
        refused(*words.split())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(place) == before and (place / output).is_file()


@pytest.mark.parametrize("words", [SAMPLE, PROCESS, "segment segmenter photos --out new", "export nam y.nam"])
def test_an_interrupt_leaves_nothing(place, monkeypatch, capsys, words):
    def interrupt(*args):
        raise KeyboardInterrupt

    before = contents(place)
    monkeypatch.setattr("wavedil.writing.os.replace", interrupt)
    assert main(words.split()) == 130 and "interrupted" in capsys.readouterr().err
    assert contents(place) == before


@pytest.mark.parametrize("words", ["sample wavenet --out clip.xyz --num 2", "segment segmenter photos --out map.png",
                                   "train --out run.yaml", "convert nam a.pt", "pack photos all.tar"])  # fmt: skip
def test_a_folder_named_like_a_file_is_refused(place, refused, words):
    before = contents(place)
    name = next(word for word in words.split() if "." in word)
    assert f"{name} looks like a file: expected a folder" in refused(*words.split())
    assert contents(place) == before


@pytest.mark.parametrize(
    "line",
    ["bench conv --json X", "bench fuzz --json X", "inspect 1,2 --plot X.png", "compress wavenet in.wav X.wdil",
     "export nam X.nam", "surprise wavenet in.wav --plot X.png", "check clips --list X",
     "inpaint wavenet in.wav --gap 1:1.1 X.wav"],
)  # fmt: skip
def test_a_folder_in_place_of_a_file_is_refused_before_work(place, refused, line):
    *words, name = line.split()
    for folder in (name, "."):
        Path(name).mkdir(exist_ok=True)
        before = contents(place)
        message = refused(*words, folder)
        assert message.count("\n") == 1 and f"{folder}" in message, message
        assert contents(place) == before


def test_a_new_model_folder_named_like_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = WaveNet(channels=4, skip_channels=4, dilations="1")
    for name in ("x.pt", "x.pth", Path("runs/x.ckpt"), "x.safetensors", "x.bin", "x.onnx", "x.nam"):
        with pytest.raises(WavedilError, match=r"folder .*x\.\w+ looks like a file: .*, e.g. \S*x, or a"):
            save(model, name)
    assert not list(tmp_path.iterdir())
    save(model, "x.pt/")
    save(model, "x.pt")  # a folder of this name is known to be meant
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"] and load("x.pt").stack.dilations == (1,)


def test_which_names_look_like_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("made.xyz").mkdir()
    for name in ("clips", "made.xyz", "new.xyz/", "amp.v2", "runs/lr0.001", "..", ".hidden", "a.b/clips"):
        check_folder_name("out", name)
    for name in ("clip.wav", "a/b.ckpt", "x.mp3", "x.h5", Path("x.safetensors")):
        with pytest.raises(WavedilError, match="out .* looks like a file"):
            check_folder_name("out", name)


def shell(line, **environment):
    variables = {**os.environ, "PYTHONIOENCODING": "", **environment, "PYTHON": sys.executable}
    return subprocess.run(["sh", "-c", line], capture_output=True, env=variables)


def test_a_reader_that_ends_and_closed_streams(place):
    line = '"$PYTHON" -c "import sys; from wavedil.cli import main; sys.exit(main(sys.argv[1:]))"'
    result = shell(f"{{ {line} inspect '1..64 x9' --json; echo $? >&3; }} 3>status | true; cat status")
    assert (result.stdout, result.stderr) == (b"0\n", b"")
    result = shell(f"{line} inspect 1,2 <&- >&- 2>&-; echo $?")
    assert (result.stdout, result.stderr) == (b"0\n", b"")
    result = shell(f"{line} inspect 1,2 >/dev/full; echo $?")
    assert result.stdout == b"2\n" and result.stderr.startswith(b"error: ") and result.stderr.count(b"\n") == 1
    result = shell(f"{line} inspect 1,2; {line} report $(printf '\\377')é; {line} --help", PYTHONIOENCODING="ascii")
    assert b"Traceback" not in result.stderr and b"usage" in result.stdout and result.stderr.count(b"\n") == 1


def test_a_working_folder_that_was_removed(refused, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in ("inspect 1,2", "sample model", "train"):
        assert "the working folder does not exist any more" in refused(*words.split())


@pytest.mark.parametrize(
    ("words", "work"),
    [
        (["check", "clips", "--list", "new/bad.txt"], "wavedil.cli.check._check"),
        (["check", "clips", "--plot", "new.png"], "wavedil.cli.check._check"),
        (
            ["search", "--field", "9", "--parameters", "99", "--plot", "new.svg"],
            "wavedil.inspection.candidates.rank_schedules",
        ),
        (["search", "-c", "amp", "--steps", "1", "--out", "new"], "wavedil.train.search.rank_schedules"),
        (["surprise", "wavenet", "in.wav", "--csv", "new.csv"], "wavedil.audio.surprise.surprise_of_file"),
        (["compress", "wavenet", "in.wav", "new.wdil"], "wavedil.audio.compression.files._session"),
        (["inspect", "1,2", "--plot", "new.png"], "wavedil.inspection.plot.plot"),
        (["bench", "codes", "--json", "new/x.json"], "wavedil.bench.run_benchmark"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_before_the_work(place, words, work, monkeypatch, capsys):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    def called(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("wavedil.outputs.lock_file", refused)
    monkeypatch.setattr(work, called)
    before = contents(place)
    assert main(words) == 2
    name = words[-1]
    assert f"error: {name} cannot be written: Permission denied; choose another folder\n" == capsys.readouterr().err
    assert contents(place) == before
