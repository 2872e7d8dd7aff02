"""Image classifiers as dense feature extractors, with stride replaced by dilation, and a check that they are exact.

``to_dense`` uses these modules in order: ``trace`` (graph of the network), ``grid`` (sampling grid of every feature
map), ``spatial`` and ``window`` (input positions that each operation reads), ``layers`` (dense replacements),
``convert``. ``check`` compares the result with the classifier.
"""

from wavedil.vision.dense.check import DenseReport, check_dense
from wavedil.vision.dense.convert import DenseBackbone, to_dense

__all__ = ["DenseBackbone", "DenseReport", "check_dense", "to_dense"]
