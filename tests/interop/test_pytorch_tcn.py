"""Weights of pytorch-tcn: equal outputs with the original package."""

import pytest
import torch

from wavedil.errors import WavedilError
from wavedil.interop.pytorch_tcn import from_pytorch_tcn

pytorch_tcn = pytest.importorskip("pytorch_tcn")


def theirs(**options):
    torch.manual_seed(0)
    model = pytorch_tcn.TCN(5, [6, 6, 4], **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return model


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ({}, ()),
        ({"kernel_size": 3, "output_projection": 7}, ()),
        ({"use_gate": True, "use_norm": None}, ()),
        ({"dilations": [4, 1, 2], "activation": "leaky_relu"}, ("dilations", "activation")),
        ({"causal": False, "kernel_size": 2, "activation": "gelu"}, ("causal", "activation")),
    ],
)
def test_equal_outputs(options, passed):
    if options.get("activation") == "gelu":
        options = options | {"kernel_initializer": "normal"}
    model = theirs(**options)
    ours = from_pytorch_tcn(model.state_dict(), **{name: options[name] for name in passed})
    x = torch.randn(3, 5, 37)
    expected = model(x)
    assert expected.abs().mean() > 1e-2
    torch.testing.assert_close(ours(x), expected, rtol=1e-6, atol=1e-6)


def test_streams_alike():
    model = theirs()
    ours = from_pytorch_tcn(model.state_dict())
    model.reset_buffers()
    state = None
    for chunk in torch.randn(1, 5, 24).split(8, -1):
        y, state = ours.step(chunk, state)
        torch.testing.assert_close(y, model(chunk, inference=True), rtol=1e-6, atol=1e-6)


def test_the_older_style_of_weight_norm():
    model = theirs()
    older = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in model.state_dict().items()
    }
    assert any(key.endswith("weight_g") for key in older)
    x = torch.randn(1, 5, 20)
    torch.testing.assert_close(from_pytorch_tcn(older)(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"use_norm": "batch_norm"}, {}, "norm1.weight has no place"),
        ({"embedding_shapes": [(3,)]}, {}, "embedding_projection_1"),
        ({"use_skip_connections": True}, {}, "downsample_skip_connection"),
        ({}, {"dilations": [1, 2]}, "4 widths: expected 3"),
        ({}, {"activation": "softmax"}, "softmax"),
    ],
)
def test_what_it_cannot_be_is_refused(options, arguments, message):
    with pytest.raises(WavedilError, match=message):
        from_pytorch_tcn(theirs(**options).state_dict(), **arguments)


def test_other_tensors_are_refused():
    with pytest.raises(WavedilError, match="first.conv"):
        from_pytorch_tcn({})
    tensors = {key: value for key, value in theirs().state_dict().items() if "network.1.conv1" not in key}
    with pytest.raises(WavedilError, match="layers.1.first.conv"):
        from_pytorch_tcn(tensors)
