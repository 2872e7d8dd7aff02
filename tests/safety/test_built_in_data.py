"""Built-in data: files are removed by the package's own names, never by names that a file lists."""

import json
import os

import pytest

from wavedil.audio.data import overdrive, pluck
from wavedil.errors import WavedilError
from wavedil.vision.data import ellipsoids, overlaps, shapes, spheres

MAKERS = {
    "corpus": lambda folder: pluck.make_corpus(folder, seconds=1),
    "recordings": lambda folder: overdrive.make_recordings(folder, 1, 8000),
    "shapes": lambda folder: shapes.make_shapes(folder, 1, 1, 80),
    "ellipsoids": lambda folder: ellipsoids.make_ellipsoids(folder, 1, 1, (8, 8, 8)),
    "overlaps": lambda folder: overlaps.make_overlaps(folder, 1, 1, 16),
    "spheres": lambda folder: spheres.make_spheres(folder, 1, 1, 16),
}


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "home" / "thesis.tex"
    path.parent.mkdir()
    path.write_text("years")
    return path


@pytest.mark.parametrize("settings", [None, "same"])
@pytest.mark.parametrize("kind", ["absolute", "parent", "link", "other name", "folder"])
def test_names_in_an_index_are_neither_removed_nor_returned(tmp_path, victim, kind, settings):
    folder = tmp_path / "run" / "data"
    files = pluck.make_corpus(folder, seconds=1)
    (folder / "mine.wav").write_bytes(b"mine")
    (folder / "melody_77.wav").mkdir()
    os.symlink(victim, folder / "melody_088.wav")
    os.symlink(victim.parent, folder / "sub")
    name = {
        "absolute": str(victim),
        "parent": "../../home/thesis.tex",
        "link": "sub/thesis.tex",
        "other name": "mine.wav",
        "folder": "melody_77.wav",
    }[kind]
    index = json.loads((folder / "notes.json").read_text())
    index["files"][name] = []
    if settings is None:
        index["settings"] = {}
    (folder / "notes.json").write_text(json.dumps(index))
    assert pluck.make_corpus(folder, seconds=1) == files
    assert victim.read_text() == "years" and (folder / "mine.wav").read_bytes() == b"mine"
    assert (folder / "melody_77.wav").is_dir() and (folder / "melody_088.wav").is_symlink()


@pytest.mark.parametrize("content", ["[]", "3", '{"files": 3}', '{"files": [3, null]}', "\udcff", '{"files": "abc"}'])
def test_a_malformed_index_is_replaced(tmp_path, content):
    for maker, index in (("corpus", "notes.json"), ("shapes", "shapes.json")):
        folder = tmp_path / maker
        MAKERS[maker](folder)
        (folder / index).write_bytes(content.encode("utf-8", "surrogateescape"))
        MAKERS[maker](folder)
        assert "settings" in json.loads((folder / index).read_text())


@pytest.mark.parametrize("maker", MAKERS)
def test_a_folder_of_other_files_is_refused_and_kept(tmp_path, maker):
    """``wavedil train --out FOLDER`` writes FOLDER/data, which may be the user's."""
    for name in ("input.wav", "table.csv", "melody_000.wav", "speech.wav"):
        (tmp_path / name).write_text("mine")
    for name in ("train/images/0000.png", "train/masks/0000.png", "train/targets/cat.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(WavedilError, match="is not a file of the built-in data") as error:
        MAKERS[maker](tmp_path)
    assert "\n" not in str(error.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 7 and all(path.read_text() == "mine" for path in files)


@pytest.mark.parametrize("maker", ["shapes", "ellipsoids", "overlaps", "spheres"])
@pytest.mark.parametrize("link", ["train", "val/images"])
def test_links_inside_the_folder_are_not_followed(tmp_path, victim, maker, link):
    folder = tmp_path / "data"
    MAKERS[maker](folder)
    pictures = victim.parent / "images" / "0000.png"
    pictures.parent.mkdir()
    pictures.write_text("mine")
    (folder / link).rename(tmp_path / "away")
    os.symlink(pictures.parent if link != "train" else victim.parent, folder / link)
    if maker == "shapes":
        (folder / "shapes.json").write_text("{}")
    with pytest.raises(WavedilError, match="is a link"):
        MAKERS[maker](folder)
    assert pictures.read_text() == "mine"


@pytest.mark.parametrize("maker", MAKERS)
def test_a_finished_or_interrupted_folder_is_written_again(tmp_path, maker):
    MAKERS[maker](tmp_path)
    for index in ("notes.json", "shapes.json"):
        (tmp_path / index).unlink(missing_ok=True)
    MAKERS[maker](tmp_path)
    os.symlink(tmp_path, tmp_path.with_name(maker))  # the folder itself may be a link, e.g. to a larger disk
    MAKERS[maker](tmp_path.with_name(maker))
