"""The permutohedral lattice: geometry, kernels against the reference, and accuracy against exact sums."""

from functools import partial

import pytest
import torch

from wavedil import WavedilError
from wavedil.ops.permutohedral import build_lattice, cpu, lattice_filter, mean_field, reference

needs_numba = pytest.mark.skipif(cpu.compiled_kernels() is None, reason="numba is not installed")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def features(dims: int, points: int, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(dims, points)


def inner(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.double() * b.double()).sum().item()


def test_one_point_by_hand():
    """In one dimension the point 0 is at the vertex (0, 0), and the other end of its simplex is (1, -1).

    The blur along the first axis adds half of (0, 0) to (1, -1); the second adds half of that to (0, 0).
    """
    for implementation in (reference, cpu)[: 1 + (cpu.compiled_builders() is not None)]:
        lattice = implementation.build_lattice(torch.zeros(1, 1))
        assert lattice.weights.tolist() == [[1, 0]] and lattice.vertices == 2
        assert lattice_filter(torch.ones(1, 1), lattice).item() == 1.25
        assert lattice_filter(torch.ones(1, 1), implementation.normalized(lattice)).item() == pytest.approx(1)


@pytest.mark.parametrize("dims", [1, 2, 3, 5, 6])
def test_corners_enclose_the_point(dims):
    """Coordinates of a corner sum to 0 and are equal modulo ``corners``; the weighted mean of corners is the point."""
    elevated = reference.elevate(features(dims, 500))
    lowest, radix = reference.key_encoding(elevated)
    keys, weights = reference.simplices(elevated, lowest, radix)
    coordinates, rest = [], keys
    for axis in reversed(range(dims)):
        coordinates.insert(0, rest // radix[axis] + lowest[axis])
        rest = rest % radix[axis]
    vertices = torch.stack([*coordinates, -sum(coordinates)], 2)  # (points, corners, coordinates)
    remainders = vertices.remainder(dims + 1)
    assert (remainders == torch.arange(dims + 1)[:, None]).all()
    assert weights.min() > -1e-5 and torch.allclose(weights.sum(1), torch.ones(500), atol=1e-5)
    mean = (weights[..., None] * vertices).sum(1)
    torch.testing.assert_close(mean, elevated.t(), rtol=1e-5, atol=1e-4)


def test_elevation_preserves_distances():
    """Elevation is a rotation, up to the scale of section 3.1."""
    f = features(5, 40)
    elevated = reference.elevate(f)
    assert elevated.sum(0).abs().max() < 1e-4
    distances, before = torch.nn.functional.pdist(elevated.t()), torch.nn.functional.pdist(f.t())
    torch.testing.assert_close(distances, 6 * (2 / 3) ** 0.5 * before, rtol=1e-5, atol=0)


@needs_numba
@pytest.mark.parametrize(("dims", "points"), [(1, 7), (2, 1001), (3, 500), (5, 4001)])
def test_kernels_build_the_same_lattice(dims, points):
    f = features(dims, points, 6)
    ours, plain = cpu.build_lattice(f), reference.build_lattice(f)
    torch.testing.assert_close(ours.weights, plain.weights, rtol=0, atol=2e-6)
    assert ours.vertices == plain.vertices
    if dims == 5:
        assert ours.vertices > 2**14  # the table has grown
    # The vertices are numbered differently.
    renamed = torch.zeros(ours.vertices + 1, dtype=torch.int64)
    renamed[plain.index.long()] = ours.index.long()
    assert (renamed[plain.index.long()] == ours.index).all() and len(renamed.unique()) == ours.vertices + 1
    expected_neighbors = torch.zeros_like(plain.neighbors)
    expected_neighbors[:, renamed] = renamed[plain.neighbors.long()].int()
    assert (expected_neighbors == ours.neighbors).all() and (ours.neighbors > 0).any()
    torch.testing.assert_close(cpu.normalized(ours).weights, reference.normalized(plain).weights, rtol=1e-5, atol=1e-6)


@needs_numba
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize(("dims", "labels"), [(1, 1), (2, 8), (3, 5), (5, 21)])
def test_filter_equals_reference(dims, labels, reverse):
    lattice = build_lattice(features(dims, 601))
    values = torch.randn(601, labels, requires_grad=True)
    assert cpu.supports(values)
    ours = lattice_filter(values, lattice, reverse)
    wide = values.detach().double().requires_grad_()
    exact = lattice_filter(wide, lattice, reverse)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)
    d = torch.randn(601, labels)
    (gradient,), (expected,) = torch.autograd.grad(ours, values, d), torch.autograd.grad(exact, wide, d.double())
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_reverse_is_the_adjoint(dtype):
    lattice = build_lattice(features(5, 700, 1.0))
    x, y = torch.randn(2, 700, 3, dtype=dtype)
    forward = inner(lattice_filter(x, lattice), y)
    assert forward == pytest.approx(inner(x, lattice_filter(y, lattice, reverse=True)), rel=1e-5)
    assert forward != pytest.approx(inner(x, lattice_filter(y, lattice)), rel=1e-4)  # the blurs do not commute


def test_gradcheck():
    lattice = build_lattice(features(3, 12, 1.0))
    values = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: lattice_filter(v, lattice), values)
    assert torch.autograd.gradgradcheck(lambda v: lattice_filter(v, lattice), values)


@needs_numba
def test_second_derivatives_and_vmap_in_float32():
    lattice = build_lattice(features(2, 50))
    values = torch.randn(50, 3, requires_grad=True)
    (first,) = torch.autograd.grad(lattice_filter(values, lattice).pow(3).sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), values)
    matrix = lattice_filter(torch.eye(50), lattice)
    expected = matrix.t() @ (6 * (matrix @ values) * (matrix @ torch.ones(50, 3)))
    torch.testing.assert_close(second, expected.detach(), rtol=1e-4, atol=1e-5)
    several = torch.randn(2, 50, 3)
    filtered = torch.func.vmap(partial(lattice_filter, lattice=lattice))(several)
    torch.testing.assert_close(filtered[1], lattice_filter(several[1], lattice))


@pytest.mark.parametrize(("dims", "spread", "error"), [(2, 1.5, 0.05), (5, 0.7, 0.1)])
def test_filter_approximates_exact_sums(dims, spread, error):
    f = features(dims, 2000, spread)
    values = torch.sin(f[:1].t() + torch.arange(3))
    exact = reference.gaussian_matrix(f) @ values
    ours = lattice_filter(values, build_lattice(f))
    assert (ours - exact).norm() / exact.norm() < error
    assert (ours - values).norm() / values.norm() > 3 * error  # and the filter is not the identity


def test_exact_sums_by_hand():
    """Two points at a distance of 2, so the weight between them is exp(-2)."""
    k = torch.e**-2.0
    matrix = reference.gaussian_matrix(torch.tensor([[0.0, 2.0]]))
    torch.testing.assert_close(matrix, torch.tensor([[1, k], [k, 1]]) / (1 + k))


@needs_numba
@pytest.mark.parametrize("with_matrix", [False, True], ids=["potts", "matrix"])
@pytest.mark.parametrize(("labels", "threads"), [(2, 1), (8, 3), (9, 1), (21, 2)])
def test_mean_field_equals_reference(labels, threads, with_matrix):
    lattices = [build_lattice(features(2, 8001, 9)), build_lattice(features(5, 8001, 0.5))]
    scores = 2 * torch.randn(labels, 8001)
    penalty = torch.randn(labels, labels) if with_matrix else None
    torch.set_num_threads(threads)
    ours = mean_field(scores, lattices, [3.0, 0.5], penalty, 4)
    filters = [partial(reference.lattice_filter, lattice=lattice) for lattice in lattices]
    wide = None if penalty is None else penalty.double()
    exact = reference.mean_field(scores.double(), filters, [3.0, 0.5], [wide, wide], 4)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=2e-5)
    assert (ours - torch.softmax(scores, 0)).abs().max() > 0.1


@needs_numba
@pytest.mark.parametrize("points", [4000, 20000])
def test_threads_in_inference_mode(points):
    """The mode belongs to a thread, and a tensor that was made in it must not be changed in place outside it."""
    lattice, values = build_lattice(features(2, points, 0.5)), torch.randn(points, 8)
    torch.set_num_threads(2)
    expected = lattice_filter(values, lattice), mean_field(values.t(), [lattice], [2.0])
    with torch.inference_mode():
        found = lattice_filter(values, lattice), mean_field(values.t(), [lattice], [2.0])
    assert all(map(torch.equal, found, expected))


@needs_numba
def test_offsets_above_32_bits(monkeypatch):
    lattices = [build_lattice(features(2, 300))]
    scores = torch.randn(3, 300)
    expected = mean_field(scores, lattices, [2.0])
    monkeypatch.setattr(cpu, "_INT32_LIMIT", 0)
    assert torch.equal(mean_field(scores, lattices, [2.0]), expected)


@needs_numba
def test_mean_field_of_extreme_scores():
    """The largest score has probability 1, labels below e^-60 have 0, and nothing overflows."""
    lattice = build_lattice(features(2, 200))
    scores = torch.randn(4, 200) + torch.tensor([0.0, 1e4, -1e4, -3e38])[:, None]
    q = mean_field(scores, [lattice], [3.0])
    assert torch.equal(q, torch.eye(4)[1][:, None].expand(4, 200))


def test_half_precision_is_filtered_in_float32():
    lattice = build_lattice(features(2, 90))
    values = torch.randn(90, 2).bfloat16()
    filtered = lattice_filter(values, lattice)
    assert filtered.dtype == torch.bfloat16
    assert torch.equal(filtered, lattice_filter(values.float(), lattice).bfloat16())


def test_default_dtype_does_not_matter():
    f, values, scores = features(2, 90), torch.randn(90, 2), torch.randn(2, 90)
    expected = lattice_filter(values, build_lattice(f)), mean_field(scores, [build_lattice(f)], [1.0])
    torch.set_default_dtype(torch.float64)
    try:
        found = lattice_filter(values, build_lattice(f)), mean_field(scores, [build_lattice(f)], [1.0])
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected))


def test_without_numba(monkeypatch):
    f, scores = features(2, 300), torch.randn(3, 300)
    expected = mean_field(scores, [build_lattice(f)], [2.0])
    monkeypatch.setattr(cpu, "compiled_kernels", lambda: None)
    monkeypatch.setattr(cpu, "compiled_builders", lambda: None)
    torch.testing.assert_close(mean_field(scores, [build_lattice(f)], [2.0]), expected, rtol=1e-4, atol=1e-6)


def test_errors():
    with pytest.raises(WavedilError, match=r"features have shape \(2, 0\): expected \(dims, points\)"):
        build_lattice(torch.zeros(2, 0))
    for bad in (float("nan"), float("inf"), 1e9):
        with pytest.raises(WavedilError, match="expected finite features within 1048576; use larger"):
            build_lattice(torch.tensor([[0.0, bad]]))
    with pytest.raises(WavedilError, match="expected a product below 2.62; use larger standard deviations"):
        build_lattice(torch.eye(5) * 1e4)
    with pytest.raises(WavedilError, match=r"values have shape \(3, 2\): expected \(4, labels\)"):
        lattice_filter(torch.zeros(3, 2), build_lattice(torch.randn(2, 4)))
