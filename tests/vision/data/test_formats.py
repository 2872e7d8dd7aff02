"""Published formats of images and masks: pairs, classes, ignored values, and errors that name the file.

The functions write small data sets. Blocks of 4 x 4 pixels have one class; red is 10 times the class.
"""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from wavedil.errors import WavedilError
from wavedil.vision.data.check import check_images
from wavedil.vision.data.dataset import SegmentationDataset
from wavedil.vision.data.formats import (
    SBD,
    Cityscapes,
    MapillaryVistas,
    OxfordPets,
    PascalVOC,
    TorchvisionDataset,
    find_format,
)
from wavedil.vision.data.formats.streets import CITYSCAPES
from wavedil.vision.data.images import write_image, write_labels
from wavedil.vision.data.palette import default_palette

SIZE = (16, 20)
NAMES = {"train": ["a1", "a2", "a3"], "val": ["b1", "b2"]}


def labels_of(name, classes):
    blocks = np.random.default_rng(list(name.encode())).integers(0, classes, (SIZE[0] // 4, SIZE[1] // 4))
    return np.kron(blocks, np.ones((4, 4))).astype(np.uint8)


def write_photo(path, labels):
    write_image(path, np.stack([labels * 10, labels * 0, labels * 0], -1).astype(np.uint8))


def replace_labels(path, values):
    write_labels(path, values.astype(np.uint8), default_palette(256))


def write_gray(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_list(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def voc(root, classes=21):
    """Class 20 is drawn with the ignored value 255."""
    for part, names in NAMES.items():
        write_list(root / "ImageSets/Segmentation" / f"{part}.txt", names)
        for name in names:
            labels = labels_of(name, classes)
            write_photo(root / "JPEGImages" / f"{name}.jpg", labels)
            replace_labels(root / "SegmentationClass" / f"{name}.png", np.where(labels == 20, 255, labels))
    write_photo(root / "JPEGImages" / "unlisted.jpg", labels_of("x", 3))
    return root


def cityscapes(root, labels="labelIds"):
    """Label 19 is an ignored id: 4 in labelIds, 255 in labelTrainIds."""
    ids = np.array([*(value for _, value, _ in CITYSCAPES), 4]) if labels == "labelIds" else np.array([*range(19), 255])
    for part, names in NAMES.items():
        for name in names:
            truth = labels_of(name, 20)
            write_photo(root / f"leftImg8bit/{part}/ulm/{name}_leftImg8bit.png", truth)
            write_gray(root / f"gtFine/{part}/ulm/{name}_gtFine_{labels}.png", ids[truth].astype(np.uint8))
            write_gray(root / f"gtFine/{part}/ulm/{name}_gtFine_instanceIds.png", np.full(SIZE, 26000, np.uint16))
    return root


def mapillary(root, version="v1.2"):
    labels = [{"name": f"a--{i}", "readable": f"class {i}", "color": [i, 0, 9], "evaluate": i != 1} for i in range(4)]
    root.mkdir(parents=True, exist_ok=True)
    (root / (f"config_{version}.json" if version else "config.json")).write_text(json.dumps({"labels": labels}))
    for part, names in (("training", NAMES["train"]), ("validation", NAMES["val"])):
        for name in names:
            write_photo(root / part / "images" / f"{name}.jpg", labels_of(name, 4))
            write_labels(
                root / part / (version or ".") / "labels" / f"{name}.png", labels_of(name, 4), default_palette(4)
            )
    return root


def pets(root):
    """Values of trimaps: 1 pet, 2 background, 3 outline."""
    for part, names in (("trainval", NAMES["train"]), ("test", NAMES["val"])):
        write_list(
            root / "annotations" / f"{part}.txt", ["# name class species breed", *(f"{name} 1 1 1" for name in names)]
        )
        for name in names:
            write_photo(root / "images" / f"{name}.jpg", labels_of(name, 3))
            write_labels(root / "annotations/trimaps" / f"{name}.png", labels_of(name, 3) + 1, default_palette(4))
    return root


def sbd(root):
    from scipy.io import savemat

    for part, names in NAMES.items():
        write_list(root / f"{part}.txt", names)
        for name in names:
            write_photo(root / "img" / f"{name}.jpg", labels_of(name, 21))
            (root / "cls").mkdir(exist_ok=True)
            edges = np.empty((20, 1), object)
            edges[:] = [[np.zeros(SIZE, np.uint8)]] * 20
            found = {"Boundaries": edges, "Segmentation": labels_of(name, 21), "CategoriesPresent": np.arange(3)}
            savemat(root / "cls" / f"{name}.mat", {"GTcls": found}, do_compression=True)
    return root


FORMATS = {
    "voc": (PascalVOC(), voc, 21, lambda truth: np.where(truth == 20, 255, truth)),
    "labelIds": (Cityscapes(), cityscapes, 19, lambda truth: np.where(truth == 19, 255, truth)),
    "labelTrainIds": (
        Cityscapes(labels="labelTrainIds"),
        lambda root: cityscapes(root, "labelTrainIds"),
        19,
        lambda truth: np.where(truth == 19, 255, truth),
    ),
    "v1.2": (MapillaryVistas(), mapillary, 3, lambda truth: np.array([0, 255, 1, 2])[truth]),
    "v2.0": (MapillaryVistas(version="v2.0"), lambda root: mapillary(root, "v2.0"), 3, None),
    "v1.1": (MapillaryVistas(), lambda root: mapillary(root, ""), 3, None),
    "pets": (OxfordPets(), pets, 2, lambda truth: np.array([1, 0, 255])[truth]),
    "sbd": (SBD(), sbd, 21, lambda truth: truth),
    "torchvision": (TorchvisionDataset("SBDataset"), sbd, 21, lambda truth: truth),
    "torchvision 2011": (
        TorchvisionDataset("VOCSegmentation/2011"),
        lambda root: voc(root / "TrainVal/VOCdevkit/VOC2011").parents[2],
        21,
        None,
    ),
    "torchvision pets": (
        TorchvisionDataset("OxfordIIITPet"),
        lambda root: pets(root / "oxford-iiit-pet").parent,
        2,
        None,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_pairs_classes_and_labels(tmp_path, name):
    pytest.importorskip("scipy.io")
    found, write, classes, expected = FORMATS[name]
    root = write(tmp_path)
    train, valid, note = found.split(root)
    stems = [[pair.image.stem.partition("_")[0] for pair in pairs] for pairs in (train, valid)]
    assert stems == list(NAMES.values()) and "3 for training, 2 for validation" in note
    scheme = found.label_scheme(root)
    images = SegmentationDataset([*train, *valid], scheme)
    assert len(scheme.classes) == classes == len(set(scheme.classes))
    for index, stem in enumerate(sum(NAMES.values(), [])):
        if expected is not None:
            truth = expected(labels_of(stem, {21: 21, 19: 20, 3: 4, 2: 3}[classes]))
            assert (images[index]["labels"].numpy() == truth).all()
        assert images[index]["image"].shape == (3, *SIZE)
    assert [len(found.pairs_to_evaluate(root, held_out)) for held_out in (False, True)] == [5, 2]
    assert len(found.split(root, exclude="a1")[0]) == 2


def test_the_ids_of_cityscapes():
    scheme = Cityscapes().label_scheme(None)
    assert scheme.classes[:3] == ["road", "sidewalk", "building"] and scheme.classes[-1] == "bicycle"
    assert scheme.encode(np.array([[7, 33, 0, 29, 26]]), "m").tolist() == [[0, 18, 255, 255, 13]]
    with pytest.raises(WavedilError, match=r"m: value 34 at row 0, column 1 .*\(unknown values .*: 34, 200\)"):
        scheme.encode(np.array([[7, 34, 200]]), "m")


def test_without_a_validation_set_images_of_the_training_set_are_held_out(tmp_path):
    found = PascalVOC(val=None)
    train, valid, note = found.split(voc(tmp_path))
    assert [pair.image.stem for pair in valid] == ["a1"] and len(train) == 2 and "one of every 10" in note
    assert [pair.image.stem for pair in found.split(tmp_path, validation="a2")[1]] == ["a2"]
    assert [pair.image.stem for pair in found.pairs_to_evaluate(tmp_path, True)] == ["a1"]
    with pytest.raises(WavedilError, match="validation is 'a': leave it|has the set val: leave it"):
        PascalVOC().split(tmp_path, validation="a")


def test_own_classes_in_the_folders_of_voc(tmp_path):
    scheme = PascalVOC(classes=["a", "b"]).label_scheme(tmp_path)
    assert list(scheme.classes) == ["a", "b"] and scheme.ignored == (255,)


def test_a_folder_above_the_one_of_voc(tmp_path):
    voc(tmp_path / "VOCdevkit" / "VOC2012")
    assert len(PascalVOC().split(tmp_path)[0]) == 3
    voc(tmp_path / "VOCdevkit" / "VOC2007")
    with pytest.raises(WavedilError, match="has VOC2007 and VOC2012: name one of them"):
        PascalVOC().split(tmp_path)


def test_no_image_trains_and_validates(tmp_path):
    found = PascalVOC(train="both")
    lists = voc(tmp_path) / "ImageSets/Segmentation"
    (lists / "both.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    for call in (found.split, found.pairs_to_evaluate):
        with pytest.raises(WavedilError, match="train is 'both' and val 'val': .* image.* the same, e.g. .*jpg; name"):
            call(tmp_path)
    assert found.pairs_to_evaluate(tmp_path, held_out=True)
    assert PascalVOC(train="both", val=None).split(tmp_path)


def test_names_of_mapillary_that_are_used_twice(tmp_path):
    labels = [{"name": name, "readable": text, "color": [1, 2, 3]} for name, text in ("aX", "bX", "cY", ("d", ""))]
    (tmp_path / "config.json").write_text(json.dumps({"labels": labels}))
    assert list(MapillaryVistas().label_scheme(tmp_path).classes) == ["a", "b", "Y", "d"]


LISTS = "ImageSets/Segmentation/train.txt"
BAD = [
    (voc, PascalVOC(), lambda r: (r / LISTS).unlink(), r"train.txt does not exist: .* has val$"),
    (voc, PascalVOC(), lambda r: (r / LISTS).write_text("# none\n\n"), "train.txt is empty"),
    (voc, PascalVOC(), lambda r: (r / LISTS).write_text("a1\na1\n"), "train.txt has 'a1' twice"),
    (voc, PascalVOC(), lambda r: (r / LISTS).write_text("../a1\n"), r"train.txt has the name '\.\./a1'"),
    (voc, PascalVOC(), lambda r: (r / LISTS).write_text("/etc/a1\n"), "train.txt has the name '/etc/a1'"),
    (voc, PascalVOC(), lambda r: (r / LISTS).write_bytes(b"\xff\xfe\0"), "train.txt is not UTF-8"),
    (voc, PascalVOC(), lambda r: (r / LISTS).write_text("a1\nzz\n"), r"'zz', which .*JPEGImages.*\(1 of 2 images"),
    (voc, PascalVOC(), lambda r: (r / "SegmentationClass/a2.png").unlink(), r"'a2'.*Class does .*\(1 of 3 masks"),
    (voc, PascalVOC(masks="Other"), lambda r: None, "Other is not a folder"),
    (voc, PascalVOC(), lambda r: replace_labels(r / "SegmentationClass/a1.png", np.full(SIZE, 77)),
     r"a1.png: value 77 at row 0.* none of the 21 classes and not the ignore_label 255: expected 0 to 20"),
    (voc, PascalVOC(), lambda r: replace_labels(r / "SegmentationClass/a1.png", np.zeros((3, 3))),
     r"a1.png is 3 x 3 pixels and its image .*a1.jpg is 20 x 16"),
    (voc, PascalVOC(classes=["a", "a"]), lambda r: None, "classes is .*: expected a different name for each class"),
    (voc, PascalVOC(classes=[]), lambda r: None, "classes has 0 names"),
    (voc, OxfordPets(), lambda r: None, "trainval.txt does not exist"),
    (voc, Cityscapes(), lambda r: None, "has no folder leftImg8bit/train"),
    (voc, MapillaryVistas(), lambda r: None, "has no folder training/v1.2/labels"),
    (voc, SBD(), lambda r: None, "train.txt does not exist"),
    (pets, PascalVOC(), lambda r: None, "has no folder JPEGImages"),
    (voc, TorchvisionDataset("OxfordIIITPet"), lambda r: None, "oxford-iiit-pet is not a folder.*set download"),
    (cityscapes, Cityscapes(labels="labelTrainIds"), lambda r: None, r"has no \*_gtFine_labelTrainIds.png"),
    (cityscapes, Cityscapes(annotations="gtCoarse"), lambda r: None, "has no folder gtCoarse/train"),
    (cityscapes, Cityscapes(), lambda r: (r / "gtFine/train/ulm/a1_gtFine_labelIds.png").unlink(),
     "a1_leftImg8bit.png has no mask in gtFine.train of the same name"),
    (mapillary, MapillaryVistas(), lambda r: (r / "config_v1.2.json").unlink(), "config_v1.2.json does not exist"),
    (mapillary, MapillaryVistas(), lambda r: (r / "config_v1.2.json").write_text("{"), "config_v1.2.json is not JSON"),
    (mapillary, MapillaryVistas(), lambda r: (r / "config_v1.2.json").write_text("[" * 10**5), "nested too deep"),
    (mapillary, MapillaryVistas(), lambda r: (r / "config_v1.2.json").write_text("[]"), "has no list labels"),
    (mapillary, MapillaryVistas(), lambda r: (r / "config_v1.2.json").write_text('{"labels": [{"name": 3}]}'),
     "label 0 is .*expected a dictionary with name"),
    (mapillary, MapillaryVistas(), lambda r: (r / "config_v1.2.json").write_text(
        '{"labels": [{"name": "a", "color": [1, 2]}]}'), "config_v1.2.json: palette is"),
    (sbd, SBD(), lambda r: (r / "cls/a1.mat").write_bytes(b"x"), "a1.mat cannot be read as a MATLAB file"),
    (sbd, SBD(), lambda r: (r / "cls/a1.mat").unlink(), "'a1', which .*cls does not have"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_errors_name_the_file(tmp_path, number):
    pytest.importorskip("scipy.io")
    write, found, spoil, message = BAD[number]
    root = write(tmp_path)
    spoil(root)
    with pytest.raises(WavedilError, match=message) as error:
        train, _, _ = found.split(root)
        SegmentationDataset(train, found.label_scheme(root)).count_labels()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PascalVoc", "did you mean PascalVOC"),
        ("{", "expected a name, or JSON"),
        ("[1]", "format is '.1.'"),
        ('{"class_path": "COCO", "x": 1}', "expected a name, or JSON"),
        ('{"class_path": "COCO", "init_args": {"trian": "a"}}', "COCO has no argument trian: .*did you mean train"),
        ('{"class_path": "COCO", "init_args": 3}', "no argument init_args"),
        ('{"class_path": "SBD", "init_args": {"train": 3}}', "train is 3: expected a text"),
        ("TorchvisionDataset", 'TorchvisionDataset needs dataset: write \'{"class_path"'),
        ('{"class_path": "TorchvisionDataset", "init_args": {"dataset": "VOC"}}', "dataset is 'VOC'"),
        ('{"class_path": "TorchvisionDataset", "init_args": {"dataset": "Cityscapes", "download": true}}', "by hand"),
    ],
)
def test_formats_by_name(text, message):
    assert type(find_format("wavedil.vision.PascalVOC")) is PascalVOC
    assert find_format('{"class_path": "PascalVOC", "init_args": {"val": null}}').val is None
    with pytest.raises(WavedilError, match=message):
        find_format(text)


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def fail(root, download, **options):
        assert download and options == {"target_types": "segmentation"}
        raise RuntimeError("no\nnetwork")

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=SimpleNamespace(OxfordIIITPet=fail)))
    with pytest.raises(WavedilError, match="OxfordIIITPet could not be downloaded to .*new: no network"):
        TorchvisionDataset("OxfordIIITPet", download=True).prepare(tmp_path / "new")
    pets(tmp_path / "oxford-iiit-pet")
    TorchvisionDataset("OxfordIIITPet", download=True).prepare(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_check_counts_the_classes_of_a_format_and_finds_broken_files(tmp_path, name):
    found, write, classes, _ = FORMATS[name]
    root = write(tmp_path / "data")
    check = check_images(root, format=found)
    train, valid, _ = found.split(root)
    images, scheme = SegmentationDataset(train + valid, found.label_scheme(root)), found.label_scheme(root)
    counts = images.count_labels().sum(0)
    shares = dict(zip(scheme.classes, (100 * counts / counts.sum()).tolist(), strict=True))
    assert check.facts["classes in % of pixels"] == pytest.approx(shares, abs=1e-3) and len(shares) == classes
    assert check.facts["sets"] == {found.train: 3, found.val: 2} and not check.paths(["broken", "size", "unknown"])
    train[0].image.write_bytes(b"broken")
    train[1].mask.write_bytes(b"broken")
    shutil.copy(train[2].image, valid[0].image)
    check = check_images(root, format=found)
    assert check.paths(["broken"]) == [str(train[0].image), str(train[1].mask)]
    assert check.paths(["shared"]) == [str(valid[0].image)]
    assert check_images(root, format=found, exclude="a1|a2").paths(["broken"]) == []
