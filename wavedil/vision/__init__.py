"""Images: the 2-D use of the core."""

from wavedil.vision.crf import CRFRNN, DenseCRF

__all__ = ["CRFRNN", "DenseCRF"]
