"""Mean-field inference of a dense CRF: wavedil and pydensecrf2."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wavedil.bench.runner import Candidate, measure
from wavedil.errors import WavedilError
from wavedil.ops.memory import keep_freed_memory
from wavedil.vision.crf import PRESETS, DenseCRF


def bench_crf(
    device: str,
    *,
    height: int = 366,
    width: int = 500,
    labels: int = 21,
    iterations: int = 10,
    presets: tuple[str, ...] = tuple(PRESETS),
    volume: tuple[int, int, int] = (64, 128, 128),
    volume_labels: int = 4,
    rounds: int = 7,
) -> dict[str, Any]:
    """Times the refinement of class probabilities by each package, on a synthetic scene and a synthetic volume.

    The image has patches with shading, texture and noise; the probabilities are blurred and partly wrong. Both packages
    run on the CPU; pydensecrf2 uses one thread.
    """
    if device != "cpu":
        raise WavedilError(f"device is {device!r}: the dense CRF runs on the CPU, so use cpu")
    keep_freed_memory()
    image, probabilities = _scene(height, width, labels)
    candidates, notes = [], []
    for preset in presets:
        crf = DenseCRF.preset(preset, iterations=iterations)
        peer = _pydensecrf2(crf, image, probabilities)
        ours = partial(crf, image, probabilities)
        candidates += [
            Candidate(f"{preset} {width}x{height}x{labels}, pydensecrf2", peer, preset),
            Candidate(f"{preset} {width}x{height}x{labels}, ours", ours, preset),
        ]
        if peer is not None:
            agreement = (ours().argmax(0) == peer().argmax(0)).double().mean().item()
            notes.append(f"{preset}: {agreement:.2%} of labels agree")
    crf = DenseCRF(iterations=iterations)
    cells, beliefs = _volume(*volume, volume_labels)
    name, peer = f"volume {'x'.join(map(str, volume))}x{volume_labels}", _pydensecrf2_volume(crf, cells, beliefs)
    candidates += [
        Candidate(f"{name}, pydensecrf2", peer, "volume"),
        Candidate(f"{name}, ours", partial(crf, cells, beliefs), "volume"),
    ]
    return {"rows": measure(candidates, rounds=rounds, device=device, warm=1), "notes": notes}


def _pydensecrf2(crf: DenseCRF, image: Tensor, probabilities: Tensor) -> Callable[[], Tensor] | None:
    try:
        from pydensecrf.densecrf import DenseCRF2D
        from pydensecrf.utils import unary_from_softmax
    except ImportError:
        return None
    height, width = image.shape[:2]

    def call() -> Tensor:
        peer = DenseCRF2D(width, height, len(probabilities))
        peer.setUnaryEnergy(unary_from_softmax(probabilities.numpy()))
        peer.addPairwiseGaussian(sxy=crf.gaussian_sxy, compat=crf.gaussian_weight)
        colors = {"srgb": crf.bilateral_srgb, "rgbim": image.numpy(), "compat": crf.bilateral_weight}
        peer.addPairwiseBilateral(sxy=crf.bilateral_sxy, **colors)
        q = peer.inference(crf.iterations)
        return torch.from_numpy(np.asarray(q)).view_as(probabilities)

    return call


def _pydensecrf2_volume(crf: DenseCRF, volume: Tensor, probabilities: Tensor) -> Callable[[], Tensor] | None:
    try:
        from pydensecrf.densecrf import DenseCRF as Peer
        from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian, unary_from_softmax
    except ImportError:
        return None

    def call() -> Tensor:
        peer = Peer(volume.numel(), len(probabilities))
        peer.setUnaryEnergy(unary_from_softmax(probabilities.numpy()))
        gaussian = create_pairwise_gaussian((crf.gaussian_sxy,) * 3, volume.shape)
        peer.addPairwiseEnergy(gaussian, compat=crf.gaussian_weight)
        deviations, colors = (crf.bilateral_sxy,) * 3, (crf.bilateral_srgb,)
        bilateral = create_pairwise_bilateral(deviations, colors, volume[..., None].numpy(), chdim=3)
        peer.addPairwiseEnergy(bilateral, compat=crf.bilateral_weight)
        return torch.from_numpy(np.asarray(peer.inference(crf.iterations))).view_as(probabilities)

    return call


def _volume(depth: int, height: int, width: int, labels: int) -> tuple[Tensor, Tensor]:
    """A synthetic volume (depth, height, width) uint8 and its class probabilities (labels, depth, height, width)."""
    generator, size = torch.Generator().manual_seed(0), (depth, height, width)

    def noise(channels: int, cells: int) -> Tensor:
        small = torch.randn(1, channels, cells, cells, cells, generator=generator)
        return F.interpolate(small, size, mode="trilinear", align_corners=False)[0]

    patches = noise(labels, 6).argmax(0)
    levels = torch.linspace(60, 200, labels)
    volume = levels[patches] + 10 * noise(1, 4)[0] + 5 * torch.randn(size, generator=generator)
    truth = F.one_hot(patches, labels).movedim(-1, 0).float()
    return volume.clamp(0, 255).byte(), torch.softmax(3 * truth + 2 * noise(labels, 20), 0)


def _scene(height: int, width: int, labels: int) -> tuple[Tensor, Tensor]:
    """A synthetic image (height, width, 3) uint8 and its class probabilities (labels, height, width).

    Its permutohedral lattices have about as many vertices as those of street photographs.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, rows: int, columns: int) -> Tensor:
        small = torch.randn(1, channels, rows, columns, generator=generator)
        return F.interpolate(small, (height, width), mode="bicubic", align_corners=False)[0]

    patches = noise(labels, 8, 10).argmax(0)
    palette = 120 + 30 * torch.randn(3, labels, generator=generator)
    light = 15 * noise(1, 4, 5)
    texture = 4 * noise(3, height // 8 + 1, width // 8 + 1) + 3 * noise(1, height, width)
    image = (palette[:, patches] + light + texture).clamp(0, 255).byte().movedim(0, -1).contiguous()
    truth = F.one_hot(patches, labels).movedim(-1, 0).float()
    blurred = F.avg_pool2d(truth[None], 17, 1, 8)[0]
    return image, torch.softmax(6 * blurred + noise(labels, height // 6 + 1, width // 6 + 1), 0)
