"""Reads and writes models in other programs' files and on the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from wavedil.audio.models.effect_model import EffectModel
from wavedil.errors import WavedilError, one_of
from wavedil.files import check_regular_file
from wavedil.interop.c_source import export_c, header_of
from wavedil.interop.formats import convert
from wavedil.interop.hub import SCHEME
from wavedil.outputs import claim_file
from wavedil.packaged import find_model, packaged_names
from wavedil.weights import load


def read_model(
    source: str, format: str | None = None, options: Mapping[str, Any] | None = None, prefix: str = ""
) -> tuple[nn.Module, str]:
    """Reads a model from a file, a model folder or the hub.

    Args:
        source: a file, a model folder or the name of a packaged model, or ``hf://OWNER/NAME``.
        format, options, prefix: for a file; see :func:`wavedil.interop.formats.convert`.

    Returns:
        The model, and the name of the format, ``"the hub"`` or the model folder.
    """
    if source.startswith(SCHEME):
        if format or options or prefix:
            raise WavedilError(f"{source} is a model on the hub: omit format, set and prefix")
        from wavedil.interop.hub import download

        return download(source.removeprefix(SCHEME)), "the hub"
    folder = find_model(source)
    if folder.is_dir():
        if format or options or prefix:
            raise WavedilError(f"{source} is a model folder: omit format, set and prefix")
        return load(folder), str(folder)
    check_regular_file(folder, "a file of weights or a model folder")
    if not folder.exists():
        raise WavedilError(
            f"{source} does not exist: expected a file of weights, a model folder, {SCHEME}OWNER/NAME, or "
            f"{one_of(source, packaged_names())}"
        )
    return convert(source, format, options, prefix)


def write_model(
    model: nn.Module,
    target: str,
    *,
    streaming: bool = False,
    nam_version: str = "0.7.0",
    metadata: Mapping[str, Any] | None = None,
    knobs: Mapping[str, float] | None = None,
    quality: float | None = None,
    inputs: Sequence[str | Path] = (),
) -> str:
    """Writes a model to a file or to the hub.

    Args:
        target: a .nam, .onnx or .c file (with a header beside it), or ``hf://OWNER/NAME``.
        streaming: .onnx: export one step, with its state as inputs and outputs.
        nam_version: .nam: version of the file format.
        metadata: .nam: values in place of the model's; see :data:`wavedil.interop.nam.metadata.KEYS`.
        knobs: .onnx with ``streaming``: settings that the start state is for; default: the middle of each range.
        quality: .c: from 0, the fastest, to 1, of a model that has several.
        inputs: files or folders that the target must not replace, e.g. the model's folder.

    Returns:
        The file, or the address on the hub.

    Raises:
        WavedilError: the target has another suffix, or the model does not fit the format.
    """
    check_target(target, streaming)
    if knobs and not streaming:
        raise WavedilError("knobs are for the start state of a streaming .onnx file: omit them, or set streaming")
    if metadata and Path(target).suffix.lower() != ".nam":
        raise WavedilError(f"metadata is for .nam files, not for {target}: omit it")
    suffix = Path(target).suffix.lower()
    if quality is not None:
        if suffix != ".c" or not isinstance(model, EffectModel):
            raise WavedilError(f"quality is for effects as .c files, not for {target}: omit it")
        model = model.at_quality(quality)
    if target.startswith(SCHEME):
        from wavedil.interop.hub import upload

        return upload(model, target.removeprefix(SCHEME))
    beside = [Path(target).with_suffix(".start.npz")] if streaming else [header_of(target)] if suffix == ".c" else []
    with claim_file(target, inputs, beside):
        if suffix == ".c":
            export_c(model, target)
        elif suffix == ".nam":
            from wavedil.interop.nam import write_nam

            write_nam(model, target, nam_version, metadata)
        else:
            from wavedil.interop.onnx import export_onnx

            export_onnx(model, target, streaming, knobs)
    return target


def check_target(target: str, streaming: bool = False) -> None:
    """Raises WavedilError unless :func:`write_model` supports this target."""
    suffix = Path(target).suffix.lower()
    if not target.startswith(SCHEME) and suffix not in (".nam", ".onnx", ".c"):
        raise WavedilError(f"{target}: expected a file that ends in .nam, .onnx or .c, or {SCHEME}OWNER/NAME")
    if target.endswith(".C"):
        raise WavedilError(f"{target}: compilers take .C for C++, write .c")
    if streaming and (target.startswith(SCHEME) or suffix != ".onnx"):
        raise WavedilError(f"streaming is for .onnx files, not for {target}: omit it")
