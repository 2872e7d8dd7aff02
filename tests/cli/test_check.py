"""``wavedil check``, and recipes that leave out what it lists."""

import json
import re

import numpy as np
import pytest

from wavedil.audio.data import audio_files
from wavedil.audio.data.split import split_files
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.vision.data.images import read_mask, write_image
from wavedil.vision.data.pairs import find_pairs, split_pairs


def check(capsys, *words):
    status = main(["check", *(str(word) for word in words), "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    random = np.random.default_rng(0)
    for index in range(20):
        sound = random.uniform(-0.3, 0.3, 400).astype(np.float32)
        audio_files.write(folder / f"{index:02d}.wav", sound - sound.mean(), 8000)
    return folder


def test_each_kind_of_fault_in_sounds_is_found(sounds, capsys):
    tone = (0.3 * np.sin(np.arange(400) * np.pi / 10 + 0.1)).astype(np.float32)
    broken = sounds / "sub" / "broken.wav"
    audio_files.write(broken, tone, 8000)
    broken.write_bytes(b"x" * 100)
    (sounds / "empty.flac").write_bytes(b"")
    audio_files.write(sounds / "nan.wav", tone, 8000, "FLOAT")
    data = (sounds / "nan.wav").read_bytes()
    (sounds / "nan.wav").write_bytes(data[:-4] + np.float32("nan").tobytes())
    audio_files.write(sounds / "silent.wav", tone * 1e-5, 8000, "FLOAT")
    audio_files.write(sounds / "quiet.wav", tone * 0.01, 8000)
    audio_files.write(sounds / "clipped.wav", np.sign(tone), 8000)
    audio_files.write(sounds / "offset.wav", tone + 0.2, 8000)
    audio_files.write(sounds / "rate.flac", tone, 16000)
    audio_files.write(sounds / "stereo.wav", np.stack([tone, tone / 2]), 8000)
    (sounds / "again.wav").write_bytes((sounds / "03.wav").read_bytes())
    status, result = check(capsys, sounds)
    kinds = {}
    for finding in result["findings"]:
        name = finding["path"].removeprefix(f"{sounds}/")
        kinds.setdefault(finding["kind"], []).append(name)
    assert status == 1 and result["count"] == 30
    assert kinds == {
        "broken": ["empty.flac", "nan.wav", "sub/broken.wav"],
        "silent": ["silent.wav"],
        "quiet": ["quiet.wav"],
        "clipped": ["clipped.wav"],
        "offset": ["offset.wav"],
        "duplicate": ["again.wav"],
        "rate": ["rate.flac"],
        "channels": ["stereo.wav"],
    }
    assert result["facts"]["sample rates in Hz"] == {"8000": 26, "16000": 1}


def test_what_is_listed_is_left_out(sounds, tmp_path, capsys):
    for name in ("04.wav", "10.wav"):
        (sounds / name).write_bytes(b"broken")
    listed = tmp_path / "lists" / "broken.txt"
    status, result = check(capsys, sounds, "-c", "pluck", "--data.exclude", "04")
    assert status == 1 and result["count"] == 19
    status, result = check(capsys, sounds, "--list", listed, "--plot", tmp_path / "levels.png")
    assert status == 1 and listed.read_text() == "../sounds/04.wav\n../sounds/10.wav\n"
    assert (tmp_path / "levels.png").stat().st_size > 5000
    split = split_files(audio_files.list_audio_files(sounds), exclude=f"@{listed}")
    names = sorted(piece.path.name for piece in [*split.train, *split.validation])
    assert names == [f"{index:02d}.wav" for index in range(20) if index not in (4, 10)]
    check(capsys, sounds, "--list", listed, "--kinds", "duplicate")
    assert listed.read_text() == ""
    with pytest.raises(WavedilError, match="@.*missing.txt.*cannot be read"):
        split_files(audio_files.list_audio_files(sounds), exclude=f"@{tmp_path / 'missing.txt'}")


def test_a_good_folder_has_status_0_and_no_findings(sounds, capsys):
    assert main(["check", str(sounds)]) == 0
    text = capsys.readouterr().out
    assert "20 files" in text and "sample rates in Hz: 8000 (20)" in text and text.endswith("nothing found\n")


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for index in range(12):
        image = random.integers(0, 256, (8, 9, 3), dtype=np.uint8)
        write_image(tmp_path / "data" / "images" / f"{index:02d}.png", image)
        write_image(tmp_path / "data" / "masks" / f"{index:02d}.png", np.repeat(image[..., :1] % 3, 3, 2))
    return tmp_path / "data"


def test_faults_of_images_and_masks_are_found_and_left_out(images, tmp_path, capsys):
    (images / "images" / "02.png").write_bytes(b"x")
    (images / "masks" / "03.png").write_bytes(b"x")
    (images / "masks" / "04.png").unlink()
    write_image(images / "masks" / "05.png", np.full((8, 8, 3), 1, np.uint8))
    (images / "images" / "07.png").write_bytes((images / "images" / "06.png").read_bytes())
    listed = tmp_path / "left-out.txt"
    status, result = check(capsys, images, "--list", listed, "--kinds", "broken", "unpaired", "size")
    found = {(finding["kind"], finding["path"].removeprefix(f"{images}/")) for finding in result["findings"]}
    assert status == 1 and result["facts"]["pairs"] == 11
    assert found == {
        ("broken", "images/02.png"),
        ("broken", "masks/03.png"),
        ("unpaired", "images/04.png"),
        ("size", "masks/05.png"),
        ("constant", "masks/05.png"),
        ("duplicate", "images/07.png"),
    }
    pairs = find_pairs(images, exclude=f"@{listed}")
    assert [pair.image.stem for pair in pairs] == ["00", "01", "06", "07", "08", "09", "10", "11"]
    train, valid, _ = split_pairs(images, exclude=r"(02|03|04|05)$")
    assert len(train) + len(valid) == 8
    with pytest.raises(WavedilError, match="leaves out all 1[12] images"):
        find_pairs(images, exclude=r"\d")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plot", "levels.xyz"], "levels.xyz: expected a file name that ends with .png, .svg or .pdf"),
        (["--plot", "levels"], "levels: expected a file name"),
        (["--kinds", "broken", "brokn", "--list", "a.txt"], "--kinds brokn: expected some of broken, silent"),
    ],
)
def test_wrong_options_are_refused_before_the_check(sounds, capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(sounds), *words]) == 2
    assert message in capsys.readouterr().err and {path.name for path in tmp_path.iterdir()} == {"sounds"}


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_pictures_have_the_formats_of_the_help(sounds, tmp_path, suffix):
    assert main(["check", str(sounds), "--plot", str(tmp_path / f"levels{suffix}")]) == 0
    assert (tmp_path / f"levels{suffix}").read_bytes()[:5] in (b"<?xml", b"%PDF-")


def test_wrong_folders_are_refused(tmp_path, capsys):
    for folder in (tmp_path / "missing", tmp_path):
        assert main(["check", str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1


def test_a_recipe_says_what_the_masks_are(images, capsys):
    for path in (images / "masks").iterdir():
        write_image(path, 100 * (np.array(read_mask(path, False)[..., None] > 0) * np.ones(3)).astype(np.uint8))
    write_image(images / "masks" / "03.png", np.full((8, 9, 3), 9, np.uint8))
    status, result = check(capsys, images, "-c", "tiny", "--data.mask_values", "[0,100]", "--data.validation", "^0")
    assert status == 0 and [each["kind"] for each in result["findings"]] == ["unknown"]
    assert result["facts"]["sets"] == {"train": 2, "val": 10}
    assert set(result["facts"]["classes in % of pixels"]) == {"0", "1"}
    status, result = check(capsys, images, "-c", "depth", "--data.targets", "masks", "--data.exclude", "03")
    assert status == 0 and result["facts"]["target values"] == "100 to 100, mean 100"
    status, result = check(capsys, images, "-c", "tiny", "--data.exclude", "03", "--data.ignore_label=100")
    assert "masks have values 0 besides the ignore_label 100" in result["facts"]["warnings"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "DATA is missing"),
        (["-c", "tiny"], "-c tiny: its data are built in"),
        (["-c", "jsb", "DATA"], "-c jsb: wavedil check cannot read MusicData"),
        (["-c", "pluck", "DATA"], "no audio files"),
        (["-c", "tiny", "DATA", "--masks", "labels"], "--masks is for DATA without -c: set --data.masks"),
        (["-c", "tiny", "DATA", "--data.root", "x"], "data.root is given twice"),
        (["-c", "tiny", "DATA", "--data.clases", "3"], "did you mean"),
        (["-c", "tiny", "DATA", "--data.classes", "1"], None),
        (["-c", "volumes", "DATA"], "no volumes: expected files that end in .nii or .nii.gz"),
        (["-c", "multilabel", "DATA"], "no folder for each class"),
        (["DATA", "--format", "PascalVOCC"], "did you mean PascalVOC"),
        (["DATA", "--format", "PascalVOC"], "has no folder JPEGImages"),
        (["DATA", "--format", "PascalVOC", "--images", "x"], "leave out --images"),
        (["DATA", "--images", "x", "--masks", "y"], "has no folder x"),
        (["DATA", "--masks", "x"], "x is not a folder"),
        (["DATA", "--data.classes", "3"], "--data.classes"),
        (["DATA", "--mask-ending", "_x"], "none of 12 files has a partner"),
        (["DATA/images/03.png"], "03.png is not an audio file: expected a folder"),
        (["-c", "tiny", "--data.root", "DATA", "--data.classes", "1"], None),
        (["--data.classes", "1", "-c", "tiny", "DATA"], None),
        (["--seed_everything", "3", "-c", "tiny", "--data.root=DATA", "--data.classes", "1"], None),
        (["-c", "tiny", "--data.classes", "[a,b]"], "data.classes is .*'a', 'b'.*built-in"),
    ],
)
def test_wrong_options_for_images_are_one_line(images, capsys, words, message):
    words = [word.replace("DATA", str(images)) for word in words]
    status, error = main(["check", *words]), capsys.readouterr().err
    assert status == (0 if message is None else 2), error
    assert message is None or (re.search(message, error) and error.startswith("error: ") and error.count("\n") == 1)
