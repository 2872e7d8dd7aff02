"""Files that are removed or damaged while training reads them."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from wavedil.audio.data import audio_files
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import RandomCrops
from wavedil.errors import WavedilError
from wavedil.skipped import SkippedFiles
from wavedil.vision.data.dataset import SegmentationDataset
from wavedil.vision.data.image_crops import RandomImageCrops
from wavedil.vision.data.images import write_image
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.data.pairs import ImagePair


def sounds(folder, limit):
    """Crops of four files on disk, and the files."""
    generator = np.random.default_rng(0)
    files = [
        audio_files.write(folder / f"{i}.wav", 0.1 * generator.standard_normal(4000).astype(np.float32), 8000)
        for i in range(4)
    ]
    corpus = Corpus(files, 8000, preload_bytes=0)
    return RandomCrops(corpus, 200, seed=1, size=40, max_skipped=limit), files


def images(folder, limit):
    """Crops of four images, and the masks."""
    pairs = []
    for i in range(4):
        pairs.append(ImagePair(folder / f"image_{i}.png", folder / f"mask_{i}.png"))
        write_image(pairs[i].image, np.random.default_rng(i).integers(0, 256, (9, 9, 3)).astype(np.uint8))
        write_image(pairs[i].mask, np.full((9, 9), i, np.uint8))
    dataset = SegmentationDataset(pairs, LabelScheme(list("abcd")))
    dataset.read = lambda index, read=dataset.read: read(index, cache=False)
    return RandomImageCrops(dataset, (5, 5), seed=1, max_skipped=limit), [pair.mask for pair in pairs]


def damage(path, how):
    if how == "removed":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"something else")


@pytest.mark.parametrize("make", [sounds, images])
@pytest.mark.parametrize("how", ["removed", "truncated", "replaced"])
def test_a_damaged_file_is_an_error_or_is_replaced(tmp_path, caplog, make, how):
    strict, files = make(tmp_path, 0)
    crops, _ = make(tmp_path, 1)
    before = [crops[index] for index in range(40)]
    damage(files[2], how)
    with pytest.raises(WavedilError) as error:
        [strict[index] for index in range(40)]
    message = str(error.value)
    assert files[2].name in message and "data.max_skipped" in message and "wavedil check DATA" in message
    with caplog.at_level(logging.WARNING, "wavedil"):
        after = [crops[index] for index in range(40)]
    (record,) = caplog.records
    assert "file 1 of at most 1" in record.message and files[2].name in record.message
    key = "codes" if make is sounds else "labels"
    same = [torch.equal(one[key], two[key]) for one, two in zip(before, after, strict=True)]
    assert 2 < same.count(False) < 30  # the other items stay as they were
    # A resumed run, with another history of failures, gets the same crops; so do workers.
    resumed = make_again(crops)
    for index in range(25, 40):
        assert torch.equal(resumed[index][key], after[index][key])
    damage(files[0], "removed")
    with pytest.raises(WavedilError, match="max_skipped is 1, and 2 files could not be read"):
        [crops[index] for index in range(40)]


def make_again(crops):
    if isinstance(crops, RandomCrops):
        return RandomCrops(crops.corpus, 200, seed=1, size=40, max_skipped=2)
    return RandomImageCrops(crops.images, (5, 5), seed=1, max_skipped=2)


def test_workers_count_together_and_their_error_is_one_line(tmp_path):
    crops, files = sounds(tmp_path, 1)
    damage(files[1], "removed")
    expected = [crops[index]["codes"] for index in range(40)]
    again = make_again(crops)
    batches = list(DataLoader(again, batch_size=5, num_workers=2))
    assert torch.equal(torch.cat([batch["codes"] for batch in batches]), torch.stack(expected))
    assert len(again.skipped) == 1
    with pytest.raises(WavedilError) as error:
        list(DataLoader(RandomCrops(crops.corpus, 200, seed=1, size=40), batch_size=5, num_workers=1))
    assert str(error.value).startswith(str(files[1])) and "Traceback" not in str(error.value)


def test_limits_are_checked_and_attempts_are_bounded():
    for limit in (-1, True, 1.0, "2"):
        with pytest.raises(WavedilError, match="max_skipped is .*: expected a number of files, at least 0"):
            SkippedFiles(3, limit)

    def broken(file):
        raise WavedilError(f"{file}.wav: no such file")

    with pytest.raises(WavedilError, match="0.wav: no such file; and 1000 crops in a row could not be read"):
        SkippedFiles(1, 5).read(lambda attempt: (0,), broken)
