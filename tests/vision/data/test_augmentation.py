"""Crops with rare classes, and transforms of torchvision on crops and masks: what they contain, alignment, seeds."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from wavedil.errors import WavedilError
from wavedil.vision import ClassBalance
from wavedil.vision.data.dataset import RegressionDataset, SegmentationDataset
from wavedil.vision.data.image_crops import RandomImageCrops
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.data.pairs import FolderLayout, find_pairs

v2 = pytest.importorskip("torchvision.transforms.v2")
NAMES = ["ground", "rare", "rarer", "none"]


def write(folder, count=6, size=(40, 50)):
    """Class 1 is one pixel of images 0 and 1, class 2 a row of image 2."""
    for index in range(count):
        labels = np.zeros(size, np.uint8)
        if index < 2:
            labels[3 + index, 44] = 1
        if index == 2:
            labels[30] = 2
        for name, pixels in (("images", np.stack([labels * 100] * 3, -1)), ("masks", labels)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def images(tmp_path):
    return SegmentationDataset(find_pairs(write(tmp_path)), LabelScheme(NAMES))


def balanced(images, probability, classes=None, **options):
    balance = ClassBalance(probability, classes)
    balance.set_counts(images.count_labels(), NAMES)
    return RandomImageCrops(images, (12, 9), scales=(1.0, 1.0), balance=balance, **options)


@pytest.mark.parametrize(("classes", "labels"), [(["rare"], {1}), (["rarer"], {2}), (["rare", "rarer"], {1, 2})])
def test_each_crop_that_is_chosen_for_a_class_contains_it(images, classes, labels):
    crops = balanced(images, 1.0, classes)
    found = [labels & set(crops[index]["labels"].flatten().tolist()) for index in range(60)]
    assert all(found)
    if len(labels) == 2:
        assert 20 < sum(2 in each for each in found) < 40


def test_the_place_of_a_chosen_crop_is_uniform(images):
    places = [(balanced(images, 1.0, ["rare"], flip=False)[index]["labels"] == 1).nonzero()[0] for index in range(200)]
    columns = np.bincount([int(column) for _, column in places], minlength=9)
    assert columns[:3].sum() == 0 and (columns[3:] > 20).all()  # the pixel is in column 44 of 50


def test_the_share_of_chosen_crops_and_the_others(images):
    crops, plain = balanced(images, 0.5, ["rare"]), balanced(images, 0.0)
    other = RandomImageCrops(images, (12, 9), scales=(1.0, 1.0))
    has_rare = [bool((crops[index]["labels"] == 1).any()) for index in range(200)]
    assert 80 < sum(has_rare) < 125
    for index in range(30):
        assert torch.equal(plain[index]["labels"], other[index]["labels"])
        if not has_rare[index] and crops.balance.choose(np.random.default_rng([0, 3, index, 0])) is None:
            assert torch.equal(crops[index]["image"], other[index]["image"])


def test_chosen_crops_depend_on_seed_and_index_alone(images):
    one, two, other = balanced(images, 0.7), balanced(images, 0.7), balanced(images, 0.7, seed=1)
    again = {index: two[index] for index in (9, 3, 5)}
    assert all(torch.equal(again[index]["labels"], one[index]["labels"]) for index in again)
    assert any(not torch.equal(other[index]["labels"], one[index]["labels"]) for index in again)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["rar"], "has 'rar': expected .*did you mean rare"),
        (["none"], "'none', which no training mask has"),
        ([], r"is \[\]: expected names of classes, or null"),
    ],
)
def test_classes_that_cannot_be_chosen(images, classes, message):
    with pytest.raises(WavedilError, match=message):
        balanced(images, 0.5, classes)


def test_an_image_and_its_mask_are_transformed_together(images):
    plain = RandomImageCrops(images, (12, 9), flip=False)
    transforms = [v2.ToPureTensor(), v2.RandomHorizontalFlip(1.0)]
    mirrored = RandomImageCrops(images, (12, 9), flip=False, transforms=transforms)
    for index in range(8):
        for key in ("image", "labels"):
            assert torch.equal(mirrored[index][key], plain[index][key].flip(-1))
            assert mirrored[index][key].dtype == plain[index][key].dtype and type(mirrored[index][key]) is torch.Tensor


GEOMETRY = [
    lambda: v2.RandomRotation((40, 41)),
    lambda: v2.RandomRotation((40, 41), fill=0.5, interpolation=v2.InterpolationMode.BILINEAR),
    lambda: v2.RandomAffine(0, (0.5, 0.5), fill=[1.0, 0.2, 0.3]),
    lambda: v2.RandomPerspective(0.9, p=1.0),
    lambda: v2.ElasticTransform(300.0, sigma=2.0),
    lambda: v2.Compose([v2.Pad(9), v2.RandomCrop((20, 20))]),
    lambda: v2.RandomChoice([v2.RandomApply([v2.RandomRotation((40, 41), fill=1.0)], p=1.0)]),
    lambda: v2.Compose([v2.RandomOrder([v2.RandomAffine(0, (0.5, 0.5))])]),
    lambda: v2.Compose([v2.CenterCrop(44), v2.Resize((20, 20))]),
    lambda: v2.RandomApply([v2.RandomZoomOut(side_range=(2.0, 2.0), p=1.0), v2.Resize((20, 20))], p=1.0),
]


@pytest.mark.parametrize("number", range(len(GEOMETRY)))
def test_masks_take_the_nearest_pixel_and_are_ignored_where_they_are_filled(tmp_path, number):
    stripes = np.kron(np.array([[7, 200]] * 5), np.ones((4, 10))).astype(np.uint8)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(stripes if name == "masks" else np.stack([stripes] * 3, -1)).save(tmp_path / name / "a.png")
    found = SegmentationDataset(find_pairs(tmp_path), LabelScheme(["a", "b"], [7, 200]))
    # Crops of the image's size have no ignored pixels without the transform.
    plain, crops = (
        RandomImageCrops(found, (20, 20), scales=(1, 1), flip=False, transforms=each)
        for each in (None, [GEOMETRY[number]()])
    )
    assert {0, 1} == set(plain[0]["labels"].unique().tolist())
    seen = [set(crops[index]["labels"].flatten().tolist()) for index in range(6)]
    assert all(each <= {0, 1, 255} for each in seen) and {0, 1, 255} in seen
    labels = [value for index in range(6) for value in crops[index]["labels"].flatten().tolist()]
    zeros, ones = labels.count(0), labels.count(1)
    assert zeros < 2 * ones  # half of the image is class 0, and no filled pixel


def test_unknown_targets_of_regression_stay_unknown(tmp_path):
    for name in ("images", "targets"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((20, 20), 99, np.uint8)).save(tmp_path / name / "a.png")
    targets = RegressionDataset(find_pairs(tmp_path, FolderLayout(masks="targets")))
    item = RandomImageCrops(targets, (20, 20), scales=(1, 1), transforms=[v2.RandomRotation((45, 46))])[0]
    known = item["targets"][~torch.isnan(item["targets"])]
    assert 200 < len(known) < 390 and (known == 99).all()


class Drawn(v2.Transform):
    """Adds numbers of three random generators."""

    def transform(self, inpt, params):
        if inpt.dtype == torch.uint8:
            return inpt
        return inpt * 0 + (torch.rand(1) + np.random.random() + random.random()) / 8


def test_random_numbers_depend_on_seed_and_index_and_those_of_the_process_stay(images):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    crops, again = (RandomImageCrops(images, (8, 8), transforms=[Drawn(), v2.ColorJitter(0.5)]) for _ in range(2))
    later = [again[index]["image"] for index in (5, 2)]
    torch.rand(3), np.random.random(), random.random()
    assert torch.equal(later[0], crops[5]["image"]) and torch.equal(later[1], crops[2]["image"])
    assert not torch.equal(later[0], later[1])
    assert not torch.equal(RandomImageCrops(images, (8, 8), transforms=[Drawn()], seed=1)[5]["image"], later[0])
    torch.set_rng_state(states[0]), random.setstate(states[2])
    crops[3]
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (torch.nn.Identity(), "transforms has an Identity: expected those of torchvision.transforms.v2"),
        (v2.Resize((5, 6)), "Resize returns 5 x 6 pixels of 3 bands: expected 12 x 9 pixels of 3 bands, the crop"),
        (v2.RandAugment(), r"RandAugment fails for an image of shape \(3, 12, 9\)"),
        (v2.Normalize([0.5], [0.5, 0.5]), "Normalize fails"),
        (v2.Normalize([0.5], [0.2]), "Normalize return pixels from -2.5 to .*: expected 0 to 1"),
        (v2.RandomRotation((40, 41), fill=255), "return pixels from .* to 255: expected 0 to 1; set fill"),
        (v2.Grayscale(), "Grayscale returns 12 x 9 pixels of 1 band: expected 12 x 9 pixels of 3 bands"),
        (v2.ToDtype(torch.uint8, scale=True), "ToDtype returns torch.uint8 and torch.uint8: expected a torch.float32"),
        (v2.ToPILImage(), "ToPILImage returns Image and torch.uint8: expected a torch.float32 tensor"),
        (v2.Compose([torch.nn.Identity()]), "transforms has an Identity: expected those"),
    ],
)
def test_transforms_that_cannot_be_used(images, transform, message):
    with pytest.raises(WavedilError, match=message) as error:
        RandomImageCrops(images, (12, 9), transforms=[transform])[0]
    assert "\n" not in str(error.value)


def test_a_recipe_with_both_is_trained_and_resumed(tmp_path):
    from wavedil.train.run import train

    options = ["--model.backbone.channels=8", "--model.context=null", "--data.crop=[16, 16]", "--data.batch_size=2"]
    options += ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--samples.num=0", "--previews.first=0"]
    options += [f"--data.root={write(tmp_path / 'data', 12)}", "--data.balance=ClassBalance"]
    options += ['--data.balance.classes=["1"]', "--data.num_workers=1"]
    options += [
        '--data.transforms=[{"class_path": "torchvision.transforms.v2.RandomRotation", "init_args": {"degrees": 9}}]'
    ]
    run = train("tiny", str(tmp_path / "run"), overrides=options)
    assert "RandomRotation" in (run / "about.json").read_text()
    assert train(out=str(run), resume="auto", overrides=["--trainer.max_steps=2"]) == run
    with pytest.raises(WavedilError, match="classes of ClassBalance has 'x': expected"):
        train("tiny", str(tmp_path / "no"), overrides=[*options, "--data.balance.classes=[x]"])
