"""The Rand score equals that of all pairs of pixels, and ``wavedil evaluate`` has it."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.vision import PixelUnshuffle, Segmenter, rand_score, save
from wavedil.vision.rand import BorderScores
from wavedil.weights import register

pytest.importorskip("scipy")


def picture(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


TWO = picture("...#...", "...#...", "...#...")  # two cells of 9 pixels, and a membrane between them


def test_known_objects():
    assert vars(rand_score(TWO, TWO)) == {"v_rand": 1.0, "split": 1.0, "merge": 1.0}
    hole = picture("...#...", ".......", "...#...")  # one pixel joins all
    merged = rand_score(hole, TWO)
    assert (merged.v_rand, merged.split, merged.merge) == (pytest.approx(2 / 3), 1.0, 0.5)
    extra = picture("...#...", "####...", "...#...")  # the left cell is split, its middle row joins the nearest part
    split = rand_score(extra, TWO)
    assert split.merge == 1.0 and split.split == pytest.approx((36 + 9 + 81) / (81 + 81))
    assert rand_score(np.ones_like(TWO), TWO).merge == 0.5  # no object: all pixels are one
    assert rand_score(TWO, np.ones_like(TWO)) is None and rand_score(TWO, TWO, ~TWO) is None
    right = np.zeros_like(TWO)
    right[:, 4:] = True
    assert rand_score(hole, TWO, right).v_rand == 1.0  # a single cell is left
    assert rand_score(np.stack([TWO, hole]), np.stack([TWO, TWO])).merge == 0.5  # joined in the slice below


@pytest.mark.parametrize("shape", [(7, 9), (1, 12), (3, 4, 5), (11,)])
def test_the_score_counts_pairs_of_pixels(shape):
    from scipy import ndimage

    generator = np.random.default_rng(sum(shape))
    for _ in range(3):
        borders, labeled, ignored = (generator.random(shape) < share for share in (0.3, 0.3, 0.1))
        found = ndimage.label(~borders)[0]
        sites = np.argwhere(found > 0)
        truth = ndimage.label(~labeled)[0]
        pixels = np.argwhere(~labeled & ~ignored)
        score = rand_score(borders, labeled, ignored)
        # Where several objects are equally near, any may be joined: only pixels with one nearest object are compared.
        near = [np.square(sites - pixel).sum(1) for pixel in pixels]
        names = [{found[tuple(site)] for site in sites[near == near.min()]} for near in near]
        if any(len(each) > 1 for each in names):
            continue
        pairs = list(product(range(len(pixels)), repeat=2))
        same = [names[a] == names[b] for a, b in pairs]
        true = [truth[tuple(pixels[a])] == truth[tuple(pixels[b])] for a, b in pairs]
        both = sum(a and b for a, b in zip(same, true, strict=True))
        assert score.split == pytest.approx(both / sum(true)) and score.merge == pytest.approx(both / sum(same))
        assert score.v_rand == pytest.approx(2 * both / (sum(true) + sum(same)))


@pytest.mark.parametrize("name", ["borders", "labeled", "ignored"])
@pytest.mark.parametrize("mask", [TWO.astype(int), TWO[:2], np.array(True)])
def test_other_masks_are_refused(name, mask):
    masks = {"borders": TWO, "labeled": TWO, "ignored": ~TWO} | {name: mask}
    with pytest.raises(WavedilError, match="is .* of shape .*: expected bool"):
        rand_score(**masks)


def test_the_threshold_with_the_best_score_is_reported():
    scores = BorderScores()
    assert scores.figures() is None
    probability = np.where(TWO, 0.9, 0.05)
    probability[1, 3] = 0.35  # a weak place of the membrane
    for _ in range(2):
        scores.update(probability, TWO, np.zeros_like(TWO))
    figures = scores.figures()
    assert figures["v_rand"] == 1.0 and figures["threshold"] == 0.1
    assert figures["v_rand_at_half"] == pytest.approx(2 / 3)


@register
class Dark(nn.Module):
    """Class 0 where the image is dark."""

    def forward(self, features):
        return torch.cat([-features, features], 1)


@pytest.fixture
def cells(tmp_path):
    from PIL import Image

    model = Segmenter(
        PixelUnshuffle(1, 1), Dark(), num_classes=2, classes=["membrane", "cell"], mask_values=[0, 255],
        ignore_label=None, mean=[0.5], std=[0.25],
    )  # fmt: skip
    save(model.eval(), tmp_path / "model")
    for index in range(3):
        image = np.where(TWO, 10, 240).astype(np.uint8)
        image[1, 3] = 240 if index == 0 else 10
        for kind, pixels in (("images", image), ("masks", np.where(TWO, 0, 255).astype(np.uint8))):
            path = tmp_path / "data" / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path


def test_evaluate_with_borders(cells, capsys):
    command = ["evaluate", str(cells / "model"), str(cells / "data"), "--border", "membrane"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = {"v_rand": (2 / 3 + 2) / 3, "split": 1.0, "merge": 2.5 / 3, "v_rand_at_half": (2 / 3 + 2) / 3}
    assert {name: result["rand"][name] for name in expected} == pytest.approx(expected)
    assert "border thinning" in result["definitions"]["rand"]
    assert main([*command, "--json", "--records", str(cells / "records"), "--batch", "2"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert main(command) == 0 and "V^Rand 0.8889 (split 1.0000, merge 0.8333)" in capsys.readouterr().out
    assert main([*command[:3], "--json"]) == 0
    without = json.loads(capsys.readouterr().out)
    assert without["rand"] is None and without["mean_iou"] == result["mean_iou"]


def test_an_unknown_border_is_refused(cells, capsys):
    assert main(["evaluate", str(cells / "model"), str(cells / "data"), "--border", "membran"]) == 2
    assert "--border is 'membran': expected one of membrane, cell; did you mean membrane?" in capsys.readouterr().err
