"""Object annotations of COCO as class labels: order of objects, holes in ids, run lengths, and files that are wrong."""

import json
import pickle

import numpy as np
import pytest

from wavedil.errors import WavedilError
from wavedil.vision.data.check import check_images
from wavedil.vision.data.dataset import SegmentationDataset
from wavedil.vision.data.formats import COCO
from wavedil.vision.data.images import write_image

masks = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11
SIZE = (16, 20)
NAMES = {"train2017": ["a1", "a2", "a3"], "val2017": ["b1", "b2"]}


#: Categories of the COCO file, with holes in their ids, in another order.
CATEGORIES = [{"id": 7, "name": "car"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "cup"}]


def coco_objects(width=20, height=16):
    """A polygon of two parts, uncompressed and compressed run lengths, and a crowd, which overlap."""
    column = [0, 4 * height, (width - 4) * height]  # the first 4 columns
    return [
        {
            "category_id": 3,
            "iscrowd": 0,
            "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12], [14.5, 1, 19, 1, 19, 5, 14.5, 5.5]],
        },
        {"category_id": 90, "iscrowd": 0, "segmentation": [[4, 4, 8, 4, 8, 8, 4, 8]]},
        {"category_id": 7, "iscrowd": 1, "segmentation": {"size": [height, width], "counts": column}},
        {"category_id": 7, "iscrowd": 0, "segmentation": {"size": [height, width], "counts": "S56:00000000000]1"}},
    ]


def coco(root, objects=None):
    root.mkdir(parents=True, exist_ok=True)
    for part, names in NAMES.items():
        images, annotations = [], []
        for number, name in enumerate(names):
            write_image(root / part / f"{name}.jpg", np.zeros((*SIZE, 3), np.uint8))
            images.append({"id": 100 + number, "file_name": f"{name}.jpg", "width": SIZE[1], "height": SIZE[0]})
            for each in coco_objects() if objects is None else objects:
                annotations.append({"id": len(annotations), "image_id": 100 + number, **each})
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def labels_of_first(root, found=None):
    found = found or COCO()
    train, _, _ = found.split(root)
    return SegmentationDataset(train, found.label_scheme(root))[0]["labels"].numpy()


def test_smaller_objects_are_over_larger_ones_and_crowds_are_ignored(tmp_path):
    labels = labels_of_first(coco(tmp_path))
    scheme = COCO().label_scheme(tmp_path)
    assert list(scheme.classes) == ["background", "dog", "car", "cup"] and scheme.ignore_label == 255
    height, width = SIZE
    dog, cup, crowd, car = (
        masks.decode(masks.merge(masks.frPyObjects(each["segmentation"], height, width)))
        if isinstance(each["segmentation"], list)
        else masks.decode(masks.frPyObjects({**each["segmentation"], "counts": counts}, height, width))
        if isinstance(counts := each["segmentation"]["counts"], list)
        else masks.decode({**each["segmentation"], "counts": counts})
        for each in coco_objects()
    )
    assert cup.sum() < car.sum() < dog.sum()
    expected = np.where(crowd, 255, 0)
    for mask, label in ((dog, 1), (car, 2), (cup, 3)):
        expected = np.where(mask, label, expected)
    assert (labels == expected).all() and set(np.unique(labels)) == {0, 1, 2, 3, 255}
    assert car.sum() == 42 and car[3:9, 10:17].all()


def test_compressed_and_other_run_lengths_of_any_mask(tmp_path):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 1.0):
        mask = np.asfortranarray(rng.random(SIZE) < share)
        counts = masks.encode(mask.astype(np.uint8))["counts"].decode()
        edges = np.flatnonzero(np.diff(mask.ravel("F"), prepend=False, append=not mask[-1, -1]))
        runs = np.diff(edges, prepend=0).tolist()
        for each in (counts, runs):
            objects = [{"category_id": 3, "segmentation": {"size": list(SIZE), "counts": each}}]
            assert (labels_of_first(coco(tmp_path, objects)) == mask).all()


def test_of_equal_objects_the_later_one_is_above(tmp_path):
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    for first, second, label in ((3, 7, 2), (7, 3, 1)):
        objects = [{"category_id": each, "segmentation": square} for each in (first, second)]
        assert labels_of_first(coco(tmp_path / str(first), objects))[4, 4] == label


def test_chosen_categories_are_the_classes_in_their_order(tmp_path):
    labels, found = labels_of_first(coco(tmp_path)), COCO(categories=["cup", "dog"])
    assert list(found.label_scheme(tmp_path).classes) == ["background", "cup", "dog"]
    chosen = labels_of_first(tmp_path, found)
    assert (chosen == np.array([0, 2, 0, 1])[np.where(labels == 255, 0, labels)])[labels != 255].all()
    with pytest.raises(WavedilError, match=r"categories has 'dogs'.*did you mean dog"):
        COCO(categories=["dogs"]).label_scheme(tmp_path)


def test_a_category_named_background_is_the_background(tmp_path):
    path = coco(tmp_path) / "annotations" / "instances_{}.json"
    for part in NAMES:
        content = json.loads((file := path.with_name(f"instances_{part}.json")).read_text())
        content["categories"][0]["name"] = "background"
        file.write_text(json.dumps(content))
    assert list(COCO().label_scheme(tmp_path).classes) == ["dog", "background", "cup"]
    assert labels_of_first(tmp_path)[15, 19] == 1


def test_pairs_are_pickled_and_one_file_for_all_images(tmp_path):
    coco(tmp_path)
    found = COCO("train2017", None, annotations="annotations/instances_train2017.json", images="train2017")
    train, valid, _ = found.split(tmp_path)
    assert (len(train), len(valid)) == (2, 1)
    again = pickle.loads(pickle.dumps(train))
    assert (again[0].read_mask(False) == train[0].read_mask(False)).all() and len(repr(train[0])) < 1000
    assert [pair.image.stem for pair in found.split(tmp_path, exclude="a2")[0]] == ["a3"]


def set_in(*keys):
    """A function that sets the value at ``keys`` of the training annotations."""
    *keys, value = keys

    def spoil(content):
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return spoil


SHAPE = ("annotations", 0, "segmentation")
BAD = [
    (set_in("images", 3), "expected a dictionary with the lists"),
    (set_in("categories", []), "expected a dictionary with the lists"),
    (set_in("categories", 0, "id", "x"), r"categories\[0\]: id is 'x': expected an integer"),
    (set_in("categories", 0, "id", 90), r"categories\[2\]: the id 90 or the name 'cup' is used before"),
    (set_in("categories", 0, "name", "dog"), r"the name 'dog' is used before"),
    (set_in("images", 0, "file_name", "zz.jpg"), r"names 'zz.jpg', which .*train2017 does not have \(1 of 3 images"),
    (set_in("images", 0, "file_name", "../train2017/a1.jpg"), "has the name '../train2017/a1.jpg'"),
    (set_in("images", 0, "file_name", "a2.jpg"), "'a2.jpg' is used before"),
    (set_in("images", 0, "file_name", ".//a2.jpg"), "'a2.jpg' is used before"),
    (set_in("annotations", 0, "iscrowd", "0"), r"annotations\[0\]: iscrowd is '0': expected 0 or 1"),
    (set_in("annotations", 0, "iscrowd", [0]), "iscrowd is .*: expected 0 or 1"),
    (set_in("images", 0, "width", 21), r"segmentation: size is \[16, 20\]: expected .*\[16, 21\]"),
    (set_in("images", 0, "width", 10**9), r"size is \[16, 20\]: expected"),
    (set_in("images", 0, "width", 0), "width is 0"),
    (set_in("images", 0, "height", None), "height is None: expected an integer"),
    (set_in("annotations", 0, "image_id", 5), r"annotations\[0\]: image_id is 5"),
    (set_in("annotations", 0, "category_id", 1), "category_id is 1: expected the id of a category, 3, 7, 90"),
    (set_in(*SHAPE, None), r"annotations\[0\]: segmentation is None: expected polygons"),
    (set_in(*SHAPE, []), "expected polygons"),
    (set_in(*SHAPE, [[1, 2, 3, 4, 5, 6, 7]]), r"segmentation\[0\] has 7 numbers"),
    (set_in(*SHAPE, [[1, 2, 3, 4]]), "has 4 numbers"),
    (set_in(*SHAPE, [[1, 2, 3, 4, "5", 6]]), "expected a list of numbers"),
    (set_in(*SHAPE, [[1, 2, 3, 4, 1e9, 6]]), "points far outside"),
    (set_in(*SHAPE, [[1, 2, 3, 4, float("nan"), 6]]), "points far outside"),
    (set_in(*SHAPE, [[1, 2, 3, 4, 10**400, 6]]), "points far outside"),
    (set_in(*SHAPE, [[0, 0, 20, 16] * 60000]), "an outline of more than"),
    (set_in(*SHAPE, {"size": [30000, 40000], "counts": [0, 1200000000]}), r"size is \[30000, 40000\]"),
    (set_in(*SHAPE, {"size": [16, 20], "counts": [300]}), "counts has 300 pixels: expected 320"),
    (set_in(*SHAPE, {"size": [16, 20], "counts": [-20, 340]}), "expected run lengths"),
    (set_in(*SHAPE, {"size": [16, 20], "counts": [10**30]}), "counts has"),
    (set_in(*SHAPE, {"size": [16, 20], "counts": "S56:00"}), "counts has 195 pixels: expected 320"),
    (set_in(*SHAPE, {"size": [16, 20], "counts": "oooo"}), "as a list or compressed"),
    (set_in(*SHAPE, {"size": [16, 20], "counts": "é"}), "as a list or compressed"),
    (set_in(*SHAPE, {"size": [16, 20], "counts": ""}), "counts has 0 pixels"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_annotations_that_are_wrong_are_refused_in_one_line(tmp_path, number):
    spoil, message = BAD[number]
    path = coco(tmp_path) / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(WavedilError, match=message) as error:
        labels_of_first(tmp_path)
    assert "\n" not in str(error.value) and str(path) in str(error.value) and len(str(error.value)) < 600


def test_an_image_of_another_size_than_the_file_says_is_refused(tmp_path):
    path = coco(tmp_path, []) / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][1] |= {"width": 40000, "height": 30000}
    path.write_text(json.dumps(content))
    with pytest.raises(WavedilError, match=r"train2017.json is 40000 x 30000 pixels and its image .*a2.jpg is 20"):
        COCO().split(tmp_path)


def test_an_evaluation_needs_no_training_set(tmp_path):
    path = coco(tmp_path) / "annotations" / "instances_train2017.json"
    path.unlink()
    assert len(COCO().pairs_to_evaluate(tmp_path, held_out=True)) == 2
    assert list(COCO().label_scheme(tmp_path).classes) == ["background", "dog", "car", "cup"]
    with pytest.raises(WavedilError, match="instances_train2017.json does not exist"):
        COCO().pairs_to_evaluate(tmp_path)
    with pytest.raises(WavedilError, match=r"categories is \[\]: expected names"):
        COCO(categories=[])


def test_categories_of_the_validation_set_must_be_known(tmp_path):
    path = coco(tmp_path) / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"cup"', '"mug"'))
    with pytest.raises(WavedilError, match="has the category 'mug', which the set train2017 does not have"):
        COCO().split(tmp_path)
    (tmp_path / "annotations" / "instances_train2017.json").write_text('{"images": [')
    with pytest.raises(WavedilError, match="instances_train2017.json is not JSON"):
        COCO().split(tmp_path)


def test_a_check_names_images_since_one_file_has_all_masks(tmp_path):
    root = coco(tmp_path / "data")
    write_image(root / "train2017" / "a2.jpg", np.zeros((8, 8, 3), np.uint8))
    check = check_images(root, format=COCO())
    assert check.paths(["size"]) == [str(root / "train2017" / "a2.jpg")] and check.count == 7
    assert list(check.facts["images by class"].values()) == [5, 5, 5, 5]
