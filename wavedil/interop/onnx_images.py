"""ONNX export of dense predictors, for images of any size."""

import json
import warnings
from pathlib import Path

import torch
from torch import nn

from wavedil.errors import WavedilError
from wavedil.interop.onnx import OPSET, TOLERANCE
from wavedil.writing import atomic_write

#: (batch, height, width) of images that are compared: sizes that no stride divides, and one below most strides.
SIZES = ((3, 130, 90), (1, 97, 97), (2, 96, 128), (1, 33, 5))


def export_predictor(model: nn.Module, path: str | Path) -> Path:
    """Writes a Segmenter or Regressor as an ONNX file, and compares onnxruntime with torch at several sizes.

    The input ``image`` is ``(batch, bands, height, width)``, float32 in [0, 1], of any size; it is not resized by the
    model's ``scale``. The output ``scores`` (Segmenter, before a softmax) or ``values`` (Regressor) is that of
    ``model(image)``. The file's metadata have ``scale``, and ``classes`` and ``palette`` as JSON.

    Raises:
        WavedilError: the model has a refinement, cannot be exported by torch, or its outputs differ.
    """
    import onnxruntime

    name = type(model).__name__
    if model.refinement is not None:
        raise WavedilError(
            f"{name} with a refinement ({type(model.refinement).__name__}) cannot be exported to ONNX: train or build "
            "one without it, and refine the scores afterwards"
        )
    path, model = Path(path), model.eval()
    axes = ({axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)},)
    image = torch.rand(2, model.in_channels, 3 * model.strides[0] + 64, 5 * model.strides[1] + 64)
    with torch.no_grad(), atomic_write(path) as beside:
        with warnings.catch_warnings(action="ignore"):
            try:
                traced = torch.export.export(_Network(model), (image,), dynamic_shapes=axes, strict=False)
                output = "values" if model.num_outputs == 1 and not hasattr(model, "classes") else "scores"
                program = torch.onnx.export(
                    traced,
                    dynamo=True,
                    input_names=["image"],
                    output_names=[output],
                    opset_version=OPSET,
                    verbose=False,
                )
            except Exception as error:  # torch has no common class of these
                reason = " ".join(str(error.__cause__ or error).split())[:200]
                raise WavedilError(f"torch cannot export this {name} to ONNX: {reason}") from None
        program.model.metadata_props.update(_metadata(model))
        program.save(beside)
        session = onnxruntime.InferenceSession(beside.read_bytes(), providers=["CPUExecutionProvider"])
        for batch, height, width in SIZES:
            image = torch.rand(batch, model.in_channels, height, width)
            expected = model(image)
            try:
                found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
            except Exception as error:  # onnxruntime's have no common class
                reason = " ".join(str(error).split())[:200]
                raise WavedilError(
                    f"onnxruntime cannot run the exported {name} for {height} x {width} pixels: {reason}"
                ) from None
            same = found.shape == expected.shape
            difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-6) if same else float("inf")
            if not difference <= TOLERANCE:
                raise WavedilError(
                    f"onnxruntime's output for {height} x {width} pixels differs from torch's by {difference:.1e} of "
                    f"the largest, more than {TOLERANCE:.0e}: nothing was written; its parts must be traceable at any "
                    "size, as those of this package are"
                )
    return path


class _Network(nn.Module):
    """``forward`` only, since the exporter also calls properties."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image)


def _metadata(model: nn.Module) -> dict[str, str]:
    values = {"scale": model.scale, "output_stride": model.output_stride, "receptive_field": model.receptive_field}
    if hasattr(model, "classes"):
        values |= {"classes": list(model.classes), "palette": [list(color) for color in model.palette]}
    return {"wavedil_class": type(model).__name__} | {key: json.dumps(value) for key, value in values.items()}
