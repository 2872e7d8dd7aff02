"""Atomic writing, and finding files by name."""

from pathlib import Path

import pytest

from wavedil.errors import WavedilError
from wavedil.files import atomic_write, matching_paths, pair_by_name, unique_names


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("old")
        assert temporary.parent == path.parent and temporary.suffix == ".txt" and not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_paths_match_below_their_common_folder_without_suffix():
    paths = [Path("d/ann/1.wav"), Path("d/bob/ann_2.wav"), Path("d/bob/3.ann").resolve()]
    assert matching_paths(paths, "ann", "validation") == set(paths[:2])
    assert matching_paths(paths, "^d|wav$", "validation") == set()
    with pytest.raises(WavedilError, match=r"exclude='\[' is not a regular expression"):
        matching_paths(paths, "[", "exclude")


def test_pairs_have_the_same_name():
    images = unique_names([("b", Path("i/b.png")), ("a", Path("i/a.jpg"))], "image")
    masks = {"a": Path("m/a.png"), "b": Path("m/b.png")}
    assert pair_by_name(images, masks, ("image", "mask"), "") == [(images["a"], masks["a"]), (images["b"], masks["b"])]
    with pytest.raises(WavedilError, match=r"m/b.png has no image of the same name \(1 of 2 files have none\): add it"):
        pair_by_name({"a": images["a"]}, masks, ("image", "mask"), "add it")
    with pytest.raises(WavedilError, match="i/a.jpg and a.png: two images have the same name"):
        unique_names([("a", Path("i/a.jpg")), ("a", Path("i/a.png"))], "image")
