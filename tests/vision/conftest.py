import pytest
import torch


@pytest.fixture
def classifier():
    """Makes a network of another package with random weights: ``classifier("timm resnet18d")``."""

    def make(network):
        pytest.importorskip(network.split()[0])
        from wavedil.bench.dense import classifier

        torch.manual_seed(0)
        return classifier(network)

    return make
