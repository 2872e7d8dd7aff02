"""The head of FCN-8s: the sum of the coarse scores and the scores of two finer feature maps."""

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.core.schema import Channels, Classes
from wavedil.vision.models.heads.parts import Features, check_channels, check_maps, score_layer
from wavedil.vision.models.upsample import upsample
from wavedil.weights import register


@register
class FCN8s(nn.Module):
    """Adds the scores of three feature maps, from coarse to fine (Long et al. 2015, arXiv 1411.4038, section 4.2).

    Reads the last three of a list of maps, each up to twice as fine as the next: pool3, pool4 and fc7 of VGG-16, i.e.
    ``VGGFrontEnd(None, stride=32, padding="same").features(x)``. Scores have the resolution of the first of the three.
    Upsampling is bilinear and fixed, as in the released nets. Those pad the first layer by 100 pixels and crop; here
    every map keeps its size.

    Args:
        in_channels: channels of the feature maps; the last three are used.
    """

    receptive_field = 3  # cells of the last map: two upsamplings by 2, each reads two cells

    def __init__(self, in_channels: Sequence[Channels], num_classes: Classes):
        super().__init__()
        channels = check_channels(in_channels, 3)[-3:]
        self.scores = nn.ModuleList(score_layer(width, num_classes) for width in channels)
        for layer in self.scores[:-1]:  # the finer maps start with zero weights, as in the paper
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Features) -> Tensor:
        fine, middle, coarse = (score(x) for score, x in zip(self.scores, check_maps(features, 3)[-3:], strict=True))
        middle = middle + upsample(coarse, middle.shape[2:])
        return fine + upsample(middle, fine.shape[2:])
