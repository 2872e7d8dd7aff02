"""Checks of images, masks of several kinds, targets and volumes before training."""

import shutil

import numpy as np
import pytest

from wavedil.errors import WavedilError
from wavedil.vision import write_label_volume
from wavedil.vision.data import overlaps
from wavedil.vision.data.check import check_images
from wavedil.vision.data.check_folder import check_folder
from wavedil.vision.data.check_truth import ClassMasks, MaskValues
from wavedil.vision.data.check_volumes import check_volumes
from wavedil.vision.data.images import write_image
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.data.spheres import make_spheres


def found(check, root):
    return {(each.kind, each.path.removeprefix(f"{root}/")) for each in check.findings}


def gray(path, values):
    write_image(path, np.asarray(values, np.uint8))


@pytest.fixture
def street(tmp_path):
    """Twelve images with the classes 0, 1 and 2; 255 in the corner."""
    generator = np.random.default_rng(0)
    for index in range(12):
        labels = generator.integers(0, 3, (8, 9))
        labels[0, 0] = 255
        write_image(tmp_path / "images" / f"{index:02d}.png", generator.integers(0, 255, (8, 9, 3), dtype=np.uint8))
        gray(tmp_path / "masks" / f"{index:02d}.png", labels)
    return tmp_path


def test_masks_of_known_classes(street):
    for index, values in enumerate([np.full((8, 9), 255), np.full((8, 9), 1), np.full((8, 9), 7), np.zeros((4, 9))]):
        gray(street / "masks" / f"{index + 1:02d}.png", values)
    shutil.copy(street / "images" / "05.png", street / "images" / "10.png")  # 00 and 10 validate
    shutil.copy(street / "images" / "06.png", street / "images" / "07.png")
    check = check_images(street, truth=ClassMasks(LabelScheme(["road", "car", "tree", "sky"])))
    assert found(check, street) == {
        ("unlabeled", "masks/01.png"),
        ("constant", "masks/02.png"),
        ("unknown", "masks/03.png"),
        ("size", "masks/04.png"),
        ("constant", "masks/04.png"),
        ("shared", "images/10.png"),
        ("duplicate", "images/07.png"),
    }
    facts = check.facts
    assert facts["sets"] == {"train": 10, "val": 2} and facts["warnings"] == ["set train: classes without pixels: sky"]
    assert facts["images by class"] == {"road": 9, "car": 9, "tree": 8, "sky": 0}
    assert sum(facts["classes in % of pixels"].values()) == pytest.approx(100, abs=0.01)
    text = next(each.text for each in check.findings if each.kind == "unknown")
    assert "none of the 4 classes" in text and not text.startswith(str(street))


def test_masks_of_unknown_classes_are_judged_as_training_does(street):
    assert check_images(street).facts["classes"] == 3
    gray(street / "masks" / "03.png", np.full((8, 9), 9))
    facts = check_images(street).facts
    assert "classes" not in facts and "masks have values 0, 1, 2, 9 besides" in facts["warnings"][0]
    write_image(street / "masks" / "03.png", np.random.default_rng(1).integers(0, 255, (8, 9, 3), dtype=np.uint8))
    check = check_images(street)
    assert "masks in color" in check.facts["warnings"][0] and not check.findings


def test_a_folder_of_masks_for_each_class_is_recognized(tmp_path):
    root = overlaps.make_overlaps(tmp_path / "data", 4, 1, 32)
    check = check_folder(root)
    assert check.count == 5 * 4 and check.facts["pairs"] == 5
    assert list(check.facts["classes in % of pixels"]) == sorted(overlaps.CLASSES)
    part = root / "train"
    (part / "masks/disc/0000.png").unlink()
    (part / "masks/disc/0001.png").write_bytes(b"broken")
    gray(part / "masks/square/0002.png", np.arange(1024).reshape(32, 32) // 200)
    for index in range(4):
        gray(part / f"masks/triangle/{index:04d}.png", np.zeros((32, 32 + (index == 3))))
    check = check_folder(root)
    assert found(check, part) == {
        ("unpaired", "images/0000.png"),
        ("broken", "masks/disc/0001.png"),
        ("unknown", "masks/square/0002.png"),
        ("size", "masks/triangle/0003.png"),
    }
    assert "has no mask of disc" in str(check)
    assert check.facts["warnings"] == ["set train: classes without pixels: triangle"]


def test_targets_are_recognized(tmp_path):
    root = make_spheres(tmp_path / "data", 3, 2, 16)
    np.save(root / "train/targets/0000.npy", np.full((16, 16), np.nan))
    (root / "train/targets/0000.png").unlink()
    np.save(root / "val/targets/0001.npy", np.full((16, 16), 3.0))
    (root / "val/targets/0001.png").unlink()
    check = check_folder(root)
    assert found(check, root) == {("unlabeled", "train/targets/0000.npy"), ("constant", "val/targets/0001.npy")}
    assert check.facts["target values"].startswith("3 to ") and 20 < check.facts["unknown pixels in %"] < 30


def test_volumes(tmp_path):
    pytest.importorskip("nibabel")
    generator, affine = np.random.default_rng(0), np.diag([1, 1, 2, 1.0])
    for index in range(12):
        image, labels = generator.integers(0, 200, (4, 5, 6)), generator.integers(0, 2, (4, 5, 6))
        labels[0, 0, 0] = 255
        at = affine
        if index == 1:
            labels = labels[:, :4]
        elif index == 2:
            at = np.diag([1, 1, 3, 1.0])
        elif index == 3:
            at = np.diag([-1, 1, 2, 1.0])
        elif index == 4:
            labels[1, 1, 1] = 254
        elif index == 5:
            labels[:] = 255
        elif index == 6:
            image[:], labels[:] = 3, 1
        write_label_volume(tmp_path / "images" / f"{index:02d}.nii.gz", image, at)
        write_label_volume(tmp_path / "masks" / f"{index:02d}.nii", labels, at + np.eye(4, k=3) * (index == 7))
    shutil.copy(tmp_path / "images" / "08.nii.gz", tmp_path / "images" / "10.nii.gz")
    (tmp_path / "images" / "09.nii.gz").write_bytes(b"broken")
    (tmp_path / "masks" / "11.nii").unlink()
    check = check_folder(tmp_path)
    assert found(check, tmp_path) == {
        ("grid", "masks/01.nii"),
        ("spacing", "images/02.nii.gz"),
        ("orientation", "images/03.nii.gz"),
        ("unlabeled", "masks/05.nii"),
        ("constant", "images/06.nii.gz"),
        ("constant", "masks/06.nii"),
        ("grid", "masks/07.nii"),
        ("shared", "images/10.nii.gz"),
        ("broken", "images/09.nii.gz"),
        ("unpaired", "images/11.nii.gz"),
    }
    assert check.count == 23 and check.facts["volumes"] == 11
    check = check_volumes(tmp_path, classes=["background", "organ"], exclude="09|11")
    kinds = {each.kind for each in check.findings if each.path.endswith("04.nii")}
    assert kinds == {"unknown"} and check.facts["volumes by class"] == {"background": 7, "organ": 8}
    for path in tmp_path.rglob("0[1-9]*"):
        path.unlink()
    check = check_volumes(tmp_path, exclude="10|11")
    assert check.facts["warnings"][0] == "set train is empty: training needs both sets"


def test_folders_that_are_no_data_are_refused(tmp_path):
    assert check_folder(tmp_path) is None
    (tmp_path / "images").mkdir()
    with pytest.raises(WavedilError, match=r"images has no images"):
        check_folder(tmp_path)
    gray(tmp_path / "images" / "a.png", [[1]])
    with pytest.raises(WavedilError, match=r"masks is not a folder"):
        check_folder(tmp_path)


def test_a_stray_mask_or_class_does_not_hide_the_classes(tmp_path):
    root = overlaps.make_overlaps(tmp_path / "data", 2, 1, 32)
    shutil.copy(root / "train/masks/disc/0000.png", root / "train/masks/0000.png")
    shutil.copytree(root / "val/masks/disc", root / "val/masks/hexagon")
    (root / "val/images/a\nb.png").write_bytes(b"x")
    for name in overlaps.CLASSES:
        shutil.copy(root / "val/masks/disc/0000.png", root / f"val/masks/{name}/a\nb.png")
    check = check_folder(root)
    assert list(check.facts["classes in % of pixels"]) == sorted(overlaps.CLASSES)
    assert "has ['hexagon'], which the training set does not have" in check.facts["warnings"][0]
    assert [each.text for each in check.findings if each.kind == "broken"][0].startswith("is not an image")
    strays = [each.path for each in check.findings if each.text == "is not in the folder of a class"]
    assert strays == [str(root / "train/masks/0000.png")]


def test_a_set_without_files_is_a_warning(tmp_path):
    generator = np.random.default_rng(0)
    for kind in ("images", "masks"):
        gray(tmp_path / kind / "a.png", generator.integers(0, 2, (5, 4)))
    assert check_folder(tmp_path).facts["warnings"] == ["set train is empty: training needs both sets"]


def test_volumes_without_labels_and_a_palette_that_does_not_fit(tmp_path, street):
    pytest.importorskip("nibabel")
    write_label_volume(tmp_path / "scans" / "images" / "1.nii", np.zeros((2, 2, 2), int), np.eye(4))
    with pytest.raises(WavedilError, match=r"masks is not a folder: expected volumes"):
        check_folder(tmp_path / "scans")
    check = check_images(street, truth=MaskValues(palette=[(1, 2, 3)]))
    assert check.facts["warnings"] == ["palette has 1 entry: expected one for each of 3 classes"]
