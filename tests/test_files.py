"""Atomic writing, and finding files by name."""

import os
import socket
from pathlib import Path

import pytest

from wavedil.errors import WavedilError
from wavedil.files import matching_paths, pair_by_name, unique_names, walk_files
from wavedil.writing import atomic_write


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


def test_each_folder_is_walked_once_whatever_links_to_it(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    for name in ("b/1.wav", "b/.2.wav", ".c/3.wav", "x.wav/4.WAV", "5.txt", "z/y/6.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "7.wav").touch()
    (root / "a").symlink_to(root / "b")  # sorted before the folder that it links to
    (root / "b" / "loop").symlink_to(root)
    (root / "m").symlink_to(other)
    (root / "n").symlink_to(other / "deep")
    (other / "deep" / "back").symlink_to(other)
    (root / "8.wav").symlink_to(root / "b" / "1.wav")  # links to files are files
    found = [path.relative_to(root).as_posix() for path in walk_files(root, (".wav",))]
    assert found == ["8.wav", "b/1.wav", "m/deep/7.wav", "x.wav/4.WAV", "z/y/6.wav"]
    (tmp_path / "link").symlink_to(root)
    assert len(walk_files(tmp_path / "link", (".wav",))) == 5


def test_what_is_no_file_is_skipped_with_one_warning(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "folder").symlink_to(tmp_path / "gone")
    (tmp_path / "self.wav").symlink_to(tmp_path / "self.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.wav"))
    with pytest.warns(UserWarning, match="6 broken links, pipes or devices are skipped, the first is .*b.wav: repair"):
        assert walk_files(tmp_path, (".wav",)) == [tmp_path / "a.wav"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):  # tests may run as root, who may list every folder
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(WavedilError, match="closed: the folder cannot be listed: Permission denied"):
        walk_files(tmp_path, (".wav",))


def test_names_in_both_unicode_forms_are_the_same(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    first = unique_names([(composed, Path("a"))], "image")
    assert pair_by_name(first, unique_names([(decomposed, Path("b"))], "mask"), ("image", "mask"), "") == [
        (Path("a"), Path("b"))
    ]
    with pytest.raises(WavedilError, match="two images have the same name"):
        unique_names([(composed, Path("a")), (decomposed, Path("b"))], "image")
    paths = [tmp_path / f"{composed}.wav", tmp_path / f"{decomposed} 2.wav"]
    assert matching_paths(paths, decomposed, "validation") == matching_paths(paths, composed, "") == set(paths)
