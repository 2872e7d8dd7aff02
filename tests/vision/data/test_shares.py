"""What training and ``wavedil check`` say about the shares of classes."""

import pytest

from wavedil.errors import WavedilError
from wavedil.vision.data.shares import class_shares, class_warnings, describe_classes

NAMES = ["background", "cat", "dog"]


@pytest.mark.parametrize(
    ("counts", "known", "several", "warnings"),
    [
        ([5, 3, 2], 10, False, []),
        ([5, 5, 0], 10, False, ["classes without pixels: dog"]),
        ([0, 10, 0], 10, False, ["all pixels that are not ignored are of class cat: nothing else can be learned"]),
        ([7, 10, 3], 10, True, ["all pixels that are not ignored are of class cat: nothing else can be learned"]),
        ([0, 4, 0], 10, True, ["classes without pixels: background, dog"]),
    ],
)
def test_classes_that_are_missing_or_alone(counts, known, several, warnings):
    assert class_warnings(NAMES, counts, known, several=several) == warnings
    lines = describe_classes(NAMES, counts, known, source="street", several=several).splitlines()
    assert lines[1:] == [f"warning: {each}" for each in warnings]
    assert lines[0].startswith("3 classes with their shares of pixels") and ("several" in lines[0]) == several
    assert class_shares(NAMES, counts, known)["cat"] == 10 * counts[1]


def test_masks_without_a_label_are_refused():
    with pytest.raises(WavedilError, match="^street: all voxels of the training masks are ignored"):
        describe_classes(NAMES, [0, 0, 0], 0, source="street", unit="voxels")
