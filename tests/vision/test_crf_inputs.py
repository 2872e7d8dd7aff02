"""Layouts of images and scores, unary energies, pairwise terms with own features, and volumes."""

import numpy as np
import pytest
import torch

from wavedil import WavedilError
from wavedil.bench import crf as bench
from wavedil.vision import CRFRNN, DenseCRF, Pairwise, position_features, unary_from_labels, unary_from_softmax

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
P = RNG.dirichlet(np.ones(4), (12, 17)).transpose(2, 0, 1).astype(np.float32)
CRF = DenseCRF(3, bilateral_srgb=30)


def test_energies_as_scores_are_refused():
    """Of several sources: -log p, clipped, of labels, scaled; but not logits that happen to be positive."""
    labels = RNG.integers(0, 4, (12, 17))
    for energies in (-np.log(P), unary_from_softmax(P), unary_from_softmax(P, 0.6), unary_from_labels(labels, 4, 0.8)):
        for scores in (energies, torch.from_numpy(energies), np.stack([energies] * 2)):
            image = np.stack([IMAGE.transpose(2, 0, 1)] * 2) if scores.ndim == 4 else IMAGE
            with pytest.raises(WavedilError, match="these are unary energies.*pass them as unary="):
                CRF(image, scores)
    for logits in (np.abs(RNG.normal(size=P.shape)), -np.log(P) + 1, np.zeros(P.shape)):
        assert np.isfinite(CRF(IMAGE, logits.astype(np.float32))).all()


def test_unary_equals_scores():
    expected = CRF(IMAGE, P)
    energies = unary_from_softmax(P)
    np.testing.assert_allclose(CRF(IMAGE, unary=energies), expected, atol=1e-5)
    np.testing.assert_allclose(CRF(IMAGE, unary=energies.reshape(4, -1)), expected, atol=1e-5)
    np.testing.assert_allclose(CRF(IMAGE, -energies), expected, atol=1e-5)
    with pytest.raises(WavedilError, match="unary holds probabilities: expected energies"):
        CRF(IMAGE, unary=P)
    with pytest.raises(WavedilError, match="unary holds log-probabilities: expected energies"):
        CRF(IMAGE, unary=np.log(P))
    for wrong in ({}, {"scores": P, "unary": energies}):
        with pytest.raises(WavedilError, match="scores and unary: expected one of them"):
            CRF(IMAGE, **wrong)


def test_unary_from_labels():
    labels = np.array([[0, 2], [255, 1]])
    p = np.exp(-unary_from_labels(labels, 3, 0.7, ignored=255))
    np.testing.assert_allclose(p[:, 0, 0], [0.7, 0.15, 0.15], rtol=1e-6)
    np.testing.assert_allclose(p[:, 0, 1], [0.15, 0.15, 0.7], rtol=1e-6)
    np.testing.assert_allclose(p[:, 1, 0], [1 / 3] * 3, rtol=1e-6)
    with pytest.raises(WavedilError, match="labels have the value 255: expected 0 to 2; set ignored"):
        unary_from_labels(labels, 3, 0.7)
    with pytest.raises(WavedilError, match="labels have the value -1: expected 0 to 2$"):
        unary_from_labels(labels - 1, 3, 0.7, ignored=254)
    with pytest.raises(WavedilError, match="confidence is 1"):
        unary_from_labels(labels, 3, 1.0)
    with pytest.raises(WavedilError, match="expected a tensor or an array of integers"):
        unary_from_labels(labels / 2, 3, 0.5)
    with pytest.raises(WavedilError, match="probabilities are not from 0 to 1"):
        unary_from_softmax(np.log(P))


def test_gray_images_equal_three_equal_channels():
    """With the deviation of the colors larger by the root of 3, the distances are the same."""
    gray, crf = IMAGE[..., 0], DenseCRF(3, bilateral_srgb=30 / 3**0.5)
    expected = CRF(np.stack([gray] * 3, -1), P)
    layer = CRFRNN(4, 3, bilateral_srgb=20)
    for image in (gray, gray[..., None]):
        assert np.abs(crf(image, P) - expected).mean() < 0.02  # lattices of 3 and 5 dimensions
        np.testing.assert_allclose(crf.exact(image, P), CRF.exact(np.stack([gray] * 3, -1), P), atol=1e-4)
        assert layer(image, torch.from_numpy(P)).shape == P.shape
    batch = np.stack([gray, gray[::-1]])[:, None]
    both = crf(batch, np.stack([P, P[:, ::-1]]))
    np.testing.assert_allclose(both[0], crf(gray, P), atol=1e-6)
    np.testing.assert_allclose(both[1], crf(gray[::-1], P[:, ::-1]), atol=1e-6)


def test_channels_and_integers():
    bands = RNG.integers(0, 4000, (12, 17, 5)).astype(np.uint16)
    crf = DenseCRF(2, bilateral_srgb=[300, 300, 300, 300, 1000])
    assert np.abs(crf(bands, P) - DenseCRF(2, bilateral_srgb=300)(bands, P)).max() > 1e-3
    np.testing.assert_allclose(crf(bands, P), crf(bands.astype(np.int32), P), atol=1e-6)
    with pytest.raises(WavedilError, match="bilateral_srgb has 5 numbers: expected one, or one for each of 3 channels"):
        crf(IMAGE, P)
    with pytest.raises(WavedilError, match="gaussian_sxy has 3 numbers: expected one, or one for each of 2 space axes"):
        DenseCRF(gaussian_sxy=[1, 2, 3])(IMAGE, P)


def test_volumes():
    """Equal slices that do not touch give the result of one slice, and a volume is close to its exact sums."""
    gray = IMAGE[..., 0]
    apart = DenseCRF(3, gaussian_sxy=[1e-3, 3, 3], bilateral_sxy=[1e-3, 49, 49], bilateral_srgb=30)
    volume, scores = np.stack([gray] * 3), np.stack([P] * 3, 1)
    exact = apart.exact(volume, scores)
    for slice_ in range(3):
        np.testing.assert_allclose(exact[:, slice_], DenseCRF(3, bilateral_srgb=30).exact(gray, P), atol=1e-4)
    volume = RNG.integers(0, 255, (6, 7, 8), dtype=np.uint8)
    scores = RNG.normal(size=(3, 6, 7, 8)).astype(np.float32)
    crf = DenseCRF(3, bilateral_srgb=60, bilateral_sxy=5)
    assert (crf(volume, scores).argmax(0) == crf.exact(volume, scores).argmax(0)).mean() > 0.9
    colored = np.stack([volume] * 2, -1)
    batch = crf(np.moveaxis(colored, -1, 0)[None], scores[None])
    np.testing.assert_allclose(batch[0], crf(colored, scores), atol=1e-6)
    assert CRFRNN(3, 2)(torch.from_numpy(volume), torch.from_numpy(scores)).shape == scores.shape


def test_terms_equal_the_built_in_kernels():
    positions = position_features((12, 17), 3)
    colors = torch.from_numpy(IMAGE).float().movedim(-1, 0) / 30
    bilateral = torch.cat([position_features((12, 17), 49).flip(0), colors])  # as built in: the last axis first
    terms = [Pairwise(positions.flip(0), 3), Pairwise(bilateral.flatten(1).numpy(), 4)]
    bare = DenseCRF(3, gaussian_weight=0, bilateral_weight=0)
    np.testing.assert_allclose(bare.exact(None, P, terms=terms), CRF.exact(IMAGE, P), atol=1e-5)
    np.testing.assert_allclose(bare(None, P, terms=terms), CRF(IMAGE, P), atol=1e-5)
    batch = bare.exact(IMAGE.transpose(2, 0, 1)[None], P[None], terms=[Pairwise(terms[0].features[None], 3), terms[1]])
    np.testing.assert_allclose(batch[0], CRF.exact(IMAGE, P), atol=1e-5)
    with pytest.raises(WavedilError, match=r"features have shape \(2, 12, 16\): expected \(dims, 12, 17\)"):
        bare(None, P, terms=[Pairwise(positions[..., 1:])])
    with pytest.raises(WavedilError, match="image is None: expected an image, or bilateral_weight 0"):
        CRF(None, P)


def test_each_term_has_its_compatibility():
    """One term with a matrix and one without, on the lattice and with exact sums; a diagonal is its matrix."""
    positions = position_features((12, 17), [2, 3])
    matrix = RNG.uniform(0, 2, (4, 4)).astype(np.float32)
    bare = DenseCRF(4, gaussian_weight=0, bilateral_weight=0)
    terms = [Pairwise(positions, 2, matrix), Pairwise(positions / 2, 1)]
    q, exact = bare(None, P, terms=terms), bare.exact(None, P, terms=terms)
    assert np.abs(q - exact).mean() < 0.02
    q64 = torch.from_numpy(P).clamp(min=1e-5).log().double().softmax(0).flatten(1)
    logits, kernels = q64.log(), []
    for term in terms:
        f = term.features.flatten(1).double()
        k = torch.exp(-torch.cdist(f.t(), f.t()).square() / 2)
        root = k.sum(1).sqrt()
        kernels.append(k / root[:, None] / root)
    for _ in range(4):
        q64 = (logits - torch.from_numpy(matrix).double() @ (2 * q64 @ kernels[0]) + q64 @ kernels[1]).softmax(0)
    np.testing.assert_allclose(exact.reshape(4, -1), q64, atol=1e-5)
    diagonal = [DenseCRF(2, compatibility=each)(IMAGE, P) for each in ([-1, -2, 0, -1], np.diag([-1.0, -2, 0, -1]))]
    np.testing.assert_array_equal(*diagonal)
    with pytest.raises(WavedilError, match="compatibility has 3 labels and scores have 4"):
        bare(None, P, terms=[Pairwise(positions, 1, np.eye(3))])


B = (2, 5, 9, 8)  # batch, labels, height, width


@pytest.mark.parametrize(
    ("image", "scores", "message"),
    [
        ((9, 8, 3), (9, 8, 5), r"scores have shape \(9, 8, 5\): expected \(labels, height, width\); .*moveaxis"),
        ((9, 8), (9, 8, 5), r"expected \(labels, height, width\); move the last axis to the front"),
        ((6, 9, 8), (6, 9, 8, 5), r"expected \(labels, depth, height, width\); move the last axis"),
        ((2, 3, 9, 8), (2, 9, 8, 5), r"expected \(batch, labels, height, width\); move the last axis"),
        ((2, 9, 8, 3), B, r"image has shape \(2, 9, 8, 3\): expected \(batch, channels, \*space\)"),
        ((3, 9, 8), B[1:], r"image has shape \(3, 9, 8\): expected \(height, width, 3\)"),
        ((9, 8, 3), (5, 8, 9), "image is 9x8 and scores are 8x9: axes are in another order; transpose scores"),
        ((9, 8, 3), (5, 9, 7), "image is 9x8 and scores are 9x7: expected the same size"),
        ((9, 8), (5, 9, 7), "image is 9x8 and scores are 9x7: expected the same size"),
    ],
)
def test_axes_in_another_order_are_named(image, scores, message):
    for refine in (CRF, CRFRNN(5)):
        with pytest.raises(WavedilError, match=message):
            refine(np.zeros(image, np.uint8), torch.randn(scores))


def test_agrees_with_pydensecrf_on_a_volume():
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed (it needs a C++ compiler)")
    volume, probabilities = bench._volume(8, 24, 20, 3)
    crf = DenseCRF(5, bilateral_srgb=13)
    ours, peer = crf(volume, probabilities), bench._pydensecrf2_volume(crf, volume, probabilities)()
    assert (ours.argmax(0) == peer.argmax(0)).double().mean() >= 0.998
