"""Segmentation data: label schemes, pairs of files, splits, datasets, random crops, and built-in images."""

import numpy as np
import pytest
import torch
from PIL import Image

from wavedil.errors import WavedilError
from wavedil.vision.data.dataset import SegmentationDataset, find_label_scheme
from wavedil.vision.data.image_crops import RandomImageCrops
from wavedil.vision.data.images import write_image, write_labels
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.data.pairs import FolderLayout, ImagePair, find_pairs, held_out_pairs, split_pairs
from wavedil.vision.data.palette import default_palette
from wavedil.vision.data.shapes import CLASSES, MIN_DISTANCE, draw, make_shapes


def write_dataset(folder, count=3, size=(12, 16), values=4, block=4, seed=0):
    """Writes images whose red channel is 50 times the label, so that crops of both can be compared."""
    for index in range(count):
        labels = np.random.default_rng([seed, index]).integers(0, values, (size[0] // block, size[1] // block))
        labels = np.kron(labels, np.ones((block, block))).astype(np.uint8)
        write_image(folder / "images" / f"{index:02d}.png", np.stack([labels * 50, labels * 0, labels * 0], -1))
        write_labels(folder / "masks" / f"{index:02d}.png", labels, default_palette(values))
    return folder


def names(pairs):
    return [pair.image.stem for pair in pairs]


# -- label schemes ----------------------------------------------------------------------------------------------------


def test_gray_values_are_encoded():
    mask = np.array([[0, 1], [2, 255]])
    assert LabelScheme(["a", "b", "c"]).encode(mask, "m").tolist() == [[0, 1], [2, 255]]
    assert LabelScheme(["a", "b"], ignore_label=2).encode(mask.clip(max=2), "m").tolist() == [[0, 1], [255, 255]]
    assert LabelScheme(["a", "b"], [255, 0], ignore_label=1).encode(mask % 2 * mask, "m").tolist() == [[1, 255], [1, 0]]
    assert LabelScheme(["a"], [2], ignore_label="rest").encode(mask, "m").tolist() == [[255, 255], [0, 255]]
    void_among_the_classes = LabelScheme(["a", "b", "void"], ignore_label=2)
    assert void_among_the_classes.encode(mask.clip(max=2), "m").tolist() == [[0, 1], [255, 255]]


def test_colors_are_encoded():
    scheme = LabelScheme(["road", "car"], [[128, 64, 128], [64, 0, 128]], ignore_label=[0, 0, 0])
    mask = np.array([[[64, 0, 128], [0, 0, 0]], [[128, 64, 128], [64, 0, 128]]], np.uint8)
    assert scheme.encode(mask, "m").tolist() == [[1, 255], [0, 1]]
    assert scheme.by_color and scheme.colors == ((128, 64, 128), (64, 0, 128))
    assert LabelScheme(["a", "b"]).colors == ((0, 0, 0), (128, 0, 0))
    with pytest.raises(WavedilError, match=r"m.png: value \[1, 2, 3\] at row 0, column 1 is none of the 2 classes"):
        scheme.encode(np.array([[[64, 0, 128], [1, 2, 3]]], np.uint8), "m.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelScheme([]), "classes has 0 names"),
        (lambda: LabelScheme([str(i) for i in range(256)]), "classes has 256 names"),
        (lambda: LabelScheme(["a", "b"], [0]), "mask_values has 1 entry: expected one for each of 2"),
        (lambda: LabelScheme(["a", "b"], [0, 0]), "a different value for each"),
        (lambda: LabelScheme(["a", "b"], [0, [1, 2, 3]]), "mask_values is"),
        (lambda: LabelScheme(["a", "b"], [0, -1]), "mask_values is"),
        (lambda: LabelScheme(["a"], [[0, 0, 256]]), "mask_values is"),
        (lambda: LabelScheme(["a"], palette=[[0, 0]]), "palette is"),
        (lambda: LabelScheme(["a"], ignore_label="rest"), "mask_values"),
        (lambda: LabelScheme(["a"], ignore_label=[0, 0, 0]), "expected a gray value"),
        (lambda: LabelScheme(["a"], [[0, 0, 1]]), "expected a color"),
    ],
)
def test_invalid_schemes_raise(make, message):
    with pytest.raises(WavedilError, match=message):
        make()


def test_the_error_names_an_unknown_mask_value():
    with pytest.raises(WavedilError, match=r"m.png: value 3 at row 1, column 0 is none of the 3 classes.*ignore_label"):
        LabelScheme(["a", "b", "c"]).encode(np.array([[0, 255], [3, 9]]), "m.png")


def test_classes_are_counted_in_the_masks(tmp_path):
    pairs = find_pairs(write_dataset(tmp_path / "a", values=4))
    assert find_label_scheme(pairs).classes == ["0", "1", "2", "3"]
    assert find_label_scheme(pairs, ignore_label=3).classes == ["0", "1", "2"]
    assert find_label_scheme(pairs, classes=7).classes == [str(label) for label in range(7)]
    assert find_label_scheme(pairs, mask_values=[0, 1, 2, 3], classes=list("abcd")).classes == ["a", "b", "c", "d"]


def test_a_stray_value_raises(tmp_path):
    pairs = find_pairs(write_dataset(tmp_path, values=4))
    mask = np.array(Image.open(pairs[1].mask))
    mask[3, 4] = 6
    write_labels(pairs[1].mask, mask, default_palette(7))
    with pytest.raises(WavedilError, match="masks: masks have values 0, 1, 2, 3, 6 besides .*: expected 0, 1, 2"):
        find_label_scheme(pairs)
    assert len(find_label_scheme(pairs, classes=7).classes) == 7
    for pair in pairs:
        write_labels(pair.mask, np.zeros((12, 16), np.uint8), default_palette(1))
    with pytest.raises(WavedilError, match="no value besides the ignore_label 0"):
        find_label_scheme(pairs, ignore_label=0)


def test_binary_masks_of_0_and_255_need_mask_values(tmp_path):
    write_dataset(tmp_path, values=2)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(np.array(Image.open(path)) * 255).save(path)
    pairs = find_pairs(tmp_path)
    with pytest.raises(
        WavedilError, match=r"masks: masks have values 0 besides the ignore_label 255.*mask_values \[0, 255\]"
    ):
        find_label_scheme(pairs)
    with pytest.raises(WavedilError, match="values 0, 255 besides"):
        find_label_scheme(pairs, ignore_label=None)
    scheme = find_label_scheme(pairs, mask_values=[0, 255], ignore_label=None)
    assert set(np.unique(SegmentationDataset(pairs, scheme).read(0)[1])) == {0, 1}


# -- pairs and splits -------------------------------------------------------------------------------------------------


def test_pairs_are_found_by_name_in_folders_and_below(tmp_path):
    write_dataset(tmp_path)
    for kind in ("images", "masks"):
        (tmp_path / kind / "sub").mkdir()
        (tmp_path / kind / "02.png").rename(tmp_path / kind / "sub" / "02.png")
    Image.open(tmp_path / "images" / "00.png").save(tmp_path / "images" / "00.jpg")
    (tmp_path / "images" / "00.png").unlink()
    assert [pair.image.relative_to(tmp_path).as_posix() for pair in find_pairs(tmp_path)] == [
        "images/00.jpg", "images/01.png", "images/sub/02.png"
    ]  # fmt: skip
    assert names(find_pairs(tmp_path)) == [pair.mask.stem for pair in find_pairs(tmp_path)]


def test_pairs_whose_names_end_differently(tmp_path):
    write_dataset(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_labelIds.png"))
        (path.with_name(f"{path.stem}_color.png")).write_bytes(b"not looked at")
    pairs = find_pairs(tmp_path, FolderLayout(mask_ending="_labelIds"))
    assert [pair.mask.stem for pair in pairs] == ["00_labelIds", "01_labelIds", "02_labelIds"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "masks" / "01.png").unlink(), r"images/01.png has no mask of the same name \(1 of 3 files"),
        (lambda f: (f / "images" / "01.png").unlink(), "masks/01.png has no image of the same name"),
        (lambda f: Image.new("L", (4, 4)).save(f / "masks" / "01.png"), r"01.png is 4 x 4 pixels.*16 x 12"),
        (lambda f: (f / "images" / "01.jpg").write_bytes(b""), "01.jpg and 01.png|01.png and 01.jpg"),
        (lambda f: (f / "images").rename(f / "pictures"), "images is not a folder"),
        (lambda f: (f / "masks" / "01.png").write_bytes(b"x"), "01.png is not an image"),
    ],
)
def test_errors_name_the_file_that_does_not_match(tmp_path, spoil, message):
    spoil(write_dataset(tmp_path))
    with pytest.raises(WavedilError, match=message):
        find_pairs(tmp_path)


def test_splits(tmp_path):
    write_dataset(tmp_path, count=12)
    train, held, note = split_pairs(tmp_path)
    assert names(held) == ["00", "10"] and len(train) == 10 and "2 for validation" in note
    assert names(split_pairs(tmp_path, validation="^0[3-5]")[1]) == ["03", "04", "05"]
    assert names(held_out_pairs(tmp_path)) == names(held)
    for bad, message in [
        ("zzz", "0 to validate"),
        ("", "validation is empty"),
        (".", "0 to train|12 to validate"),
        ("(", "regular expression"),
    ]:
        with pytest.raises(WavedilError, match=message):
            split_pairs(tmp_path, validation=bad)
    write_dataset(tmp_path / "both" / "train", count=2), write_dataset(tmp_path / "both" / "val", count=1)
    train, held, note = split_pairs(tmp_path / "both")
    assert (len(train), len(held)) == (2, 1) and "folders train and val" in note
    assert names(held_out_pairs(tmp_path / "both")) == names(held)
    with pytest.raises(WavedilError, match="leave it out"):
        split_pairs(tmp_path / "both", validation="0")
    with pytest.raises(WavedilError, match="nowhere is not a folder"):
        split_pairs(tmp_path / "nowhere")


# -- datasets and crops -----------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    pairs = find_pairs(write_dataset(tmp_path))
    return SegmentationDataset(pairs, find_label_scheme(pairs, ignore_label=None))


def test_items_label_counts_and_scale(images):
    item = images[1]
    assert item["image"].shape == (3, 12, 16) and item["image"].dtype == torch.float32
    torch.testing.assert_close(item["image"][0] * 255 / 50, item["labels"].float())
    counts = images.count_labels()
    assert counts.shape == (3, 4) and counts.sum(1).tolist() == [192] * 3
    assert counts[1].tolist() == torch.bincount(item["labels"].flatten(), minlength=4).tolist()
    half = SegmentationDataset(images.pairs, images.label_scheme, scale=0.5)[1]
    assert half["labels"].shape == (6, 8) and torch.equal(half["labels"], item["labels"][::2, ::2])
    with pytest.raises(WavedilError, match="scale is 0"):
        SegmentationDataset(images.pairs, images.label_scheme, scale=0)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 2.0)])
def test_crops_of_image_and_labels_are_aligned(tmp_path, scales):
    pairs = find_pairs(write_dataset(tmp_path, size=(48, 64), block=16))
    crops = RandomImageCrops(
        SegmentationDataset(pairs, find_label_scheme(pairs, ignore_label=None)), (35, 43), scales=scales
    )
    for index in range(20):
        item = crops[index]
        image, labels = item["image"], item["labels"]
        assert image.shape == (3, 35, 43) and labels.shape == (35, 43) and labels.dtype == torch.int64
        labeled = labels != 255
        red, expected = (image[0] * 255 / 50)[labeled], labels[labeled]
        if scales == (1.0, 1.0):
            torch.testing.assert_close(red, expected.float())
        assert torch.corrcoef(torch.stack([red, expected.float()]))[0, 1] > 0.85  # edges are smoothed


def test_crops_depend_only_on_seed_and_index(images):
    crops, again = RandomImageCrops(images, (8, 8)), RandomImageCrops(images, (8, 8))
    later = [again[index] for index in (7, 3)]
    for item, index in zip(later, (7, 3), strict=True):
        assert all(torch.equal(item[key], crops[index][key]) for key in item)
    other = RandomImageCrops(images, (8, 8), seed=1)
    assert any(not torch.equal(other[i]["image"], crops[i]["image"]) for i in range(3))


def test_each_image_is_used_once_per_epoch(tmp_path):
    pairs = []
    for index in range(7):
        write_image(tmp_path / f"{index}.png", np.full((4, 4, 3), index, np.uint8))
        write_labels(tmp_path / f"{index}_m.png", np.zeros((4, 4), np.uint8), default_palette(2))
        pairs.append(ImagePair(tmp_path / f"{index}.png", tmp_path / f"{index}_m.png"))
    crops = RandomImageCrops(SegmentationDataset(pairs, LabelScheme(["a", "b"])), (4, 4), scales=(1, 1))
    seen = [round(float(crops[index]["image"][0, 0, 0]) * 255) for index in range(28)]
    epochs = [seen[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(map(tuple, epochs))) > 1


def test_crops_larger_than_the_image_are_padded_with_ignored_pixels(images):
    positions = set()
    for item in (RandomImageCrops(images, (20, 30), scales=(1, 1))[index] for index in range(20)):
        labeled = item["labels"] != 255
        assert labeled.sum() == 12 * 16
        rows, columns = labeled.any(1).nonzero(), labeled.any(0).nonzero()
        assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (12, 16)
        assert torch.allclose(item["image"][:, ~labeled], torch.tensor([[124.0], [116], [104]]) / 255)
        positions.add((int(rows.min()), int(columns.min())))
    assert len(positions) > 10


def test_half_of_the_crops_are_mirrored(images):
    plain, mirrored = RandomImageCrops(images, (12, 16), flip=False), RandomImageCrops(images, (12, 16))
    plain.scales = mirrored.scales = (1.0, 1.0)
    flipped = 0
    for index in range(60):
        one, two = plain[index]["labels"], mirrored[index]["labels"]
        assert torch.equal(one, two) or torch.equal(one.flip(-1), two)
        flipped += not torch.equal(one, two)
    assert 15 < flipped < 45


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": (0, 3)}, "crop is"), ({"size": (3, 3), "scales": (2, 1)}, "scales is"), ({"size": (3,)}, "crop is")],
)
def test_invalid_crops_raise(images, options, message):
    with pytest.raises(WavedilError, match=message):
        RandomImageCrops(images, **options)


# -- built-in images --------------------------------------------------------------------------------------------------


def test_discs_are_gray_and_far_from_the_mark_of_their_class():
    classes = set()
    for index in range(12):
        image, labels = draw(96, np.random.default_rng(index))
        marks, discs = np.isin(labels, (1, 2)), np.isin(labels, (3, 4))
        assert len(np.unique(labels[marks])) == 1
        if discs.any():
            assert (labels[discs] == labels[marks][0] + 2).all()
            classes.add(int(labels[marks][0]))
            gray = image[discs].astype(int)
            assert abs(gray.mean(0) - gray.mean()).max() < 5  # their color does not show the class
            (top, left), (bottom, right) = np.argwhere(marks).min(0), np.argwhere(marks).max(0)
            rows, columns = np.nonzero(discs)
            distance = np.maximum(np.maximum(top - rows, rows - bottom), np.maximum(left - columns, columns - right))
            assert distance.min() >= MIN_DISTANCE - 1
    assert classes == {1, 2}


def test_shapes_are_written_once_and_reproducibly(tmp_path):
    folder = make_shapes(tmp_path / "a", train=3, val=2)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    assert len(files) == 10
    pairs, held, _ = split_pairs(folder)
    scheme = find_label_scheme([*pairs, *held], classes=CLASSES)
    assert SegmentationDataset(pairs, scheme).count_labels()[:, 0].min() > 0
    times = [(folder / file).stat().st_mtime_ns for file in files]
    make_shapes(folder, train=3, val=2)
    assert [(folder / file).stat().st_mtime_ns for file in files] == times
    other = make_shapes(tmp_path / "b", train=4, val=2)
    assert all((other / file).read_bytes() == (folder / file).read_bytes() for file in files)
    (folder / files[0]).unlink()
    make_shapes(folder, train=3, val=2)
    assert (folder / files[0]).read_bytes() == (other / files[0]).read_bytes()
    with pytest.raises(WavedilError, match="size is 40"):
        make_shapes(tmp_path / "c", size=40)


def test_endings_in_another_unicode_form_and_names_that_are_only_an_ending(tmp_path):
    write_image(tmp_path / "images" / "sub" / "cafe\u0301.png", np.zeros((2, 3, 3), np.uint8))
    write_labels(tmp_path / "masks" / "sub" / "caf\u00e9.png", np.zeros((2, 3), np.uint8), default_palette(2))
    assert len(find_pairs(tmp_path)) == 1
    assert find_pairs(tmp_path, FolderLayout(image_ending="\u00e9", mask_ending="cafe\u0301"[3:])) == find_pairs(
        tmp_path
    )
    write_image(tmp_path / "images" / "sub" / "_x.png", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(WavedilError, match=r"_x.png has no mask"):
        find_pairs(tmp_path, FolderLayout(image_ending="_x"))


def test_a_file_that_is_replaced_or_removed_after_the_pairs_were_found_is_an_error(tmp_path):
    dataset = SegmentationDataset(find_pairs(write_dataset(tmp_path, 1)), LabelScheme(list("abcd")))
    write_labels(tmp_path / "masks" / "00.png", np.zeros((3, 4), np.uint8), default_palette(2))
    with pytest.raises(WavedilError, match=r"masks/00.png has the size \(3, 4\) and .*images/00.png \(12, 16\)"):
        dataset[0]
    (tmp_path / "images" / "00.png").unlink()
    with pytest.raises(WavedilError, match=r"images/00.png does not exist"):
        dataset[0]


def test_an_image_without_the_mask_of_a_class_is_named_with_its_folder(tmp_path):
    for name in ("images/a", "images/b", "masks/cat/a"):
        write_image(tmp_path / f"{name}.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(WavedilError, match=r"b.png has no mask in masks/cat of the same name \(1 of 2 files"):
        find_pairs(tmp_path, FolderLayout(masks="masks/cat"))
