"""Image classifiers as dense feature extractors: stride traded for dilation, and the proof that nothing else changed.

``to_dense`` goes through these files in turn: ``trace`` (the graph of the network), ``grid`` (where the cells of every
map lie), ``spatial`` and ``window`` (what each operation reads), ``layers`` (what replaces it), ``convert``; and
``check`` compares the result with the classifier.
"""

from wavedil.vision.dense.check import DenseReport, check_dense
from wavedil.vision.dense.convert import DenseBackbone, to_dense

__all__ = ["DenseBackbone", "DenseReport", "check_dense", "to_dense"]
