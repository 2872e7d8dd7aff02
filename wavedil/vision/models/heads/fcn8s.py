"""FCN-8s: coarse scores, corrected by those of two finer maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.vision.models.heads.parts import Features, classifier, level_channels, levels
from wavedil.vision.models.upsample import upsample
from wavedil.weights import register


@register
class FCN8s(nn.Module):
    """Scores of three maps, each coarser sum enlarged to the next finer map (Long et al. 2015, arXiv 1411.4038, 4.2).

    Reads the last three of a list of maps, each up to twice as fine as the next: pool3, pool4 and fc7 of VGG-16, which
    are ``VGGFrontEnd(None, stride=32, padding="same").features(x)``. Scores are at the resolution of the first of the
    three. The enlarging is bilinear and fixed, as in the released nets; these pad the first layer by 100 and crop,
    where here every map keeps its size.

    Args:
        in_channels: those of the maps; the last three count.
    """

    level = -3
    receptive_field = 3  # of the last map: two enlargings by 2, each of which looks at two cells

    def __init__(self, in_channels: Sequence[int], num_classes: int):
        super().__init__()
        channels = level_channels(in_channels, 3)[-3:]
        self.scores = nn.ModuleList(classifier(width, num_classes) for width in channels)
        for finer in self.scores[:-1]:  # the finer maps start without a say
            nn.init.zeros_(finer.weight)
            nn.init.zeros_(finer.bias)

    def forward(self, features: Features) -> Tensor:
        fine, middle, coarse = (score(x) for score, x in zip(self.scores, levels(features, 3)[-3:], strict=True))
        middle = middle + upsample(coarse, middle.shape[2:])
        return fine + upsample(middle, fine.shape[2:])
