"""Compressed files: a short header, and the codes of the sound in the bits that the model needs for them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wavedil.audio.compression.arithmetic import REMEDY, Decoder, Encoder
from wavedil.audio.compression.codes import decode_codes, encode_codes
from wavedil.audio.compression.header import Header, digest
from wavedil.audio.conditioning.conditioner import Speaker
from wavedil.audio.data import audio_files
from wavedil.audio.data.levels import check_level
from wavedil.audio.distributions.quantizers import Linear
from wavedil.audio.generation.engines import choose, session_class
from wavedil.audio.generation.engines.session import Session
from wavedil.batches import fingerprint
from wavedil.core.schema import AnyPath, checked
from wavedil.errors import WavedilError, with_article
from wavedil.files import check_regular_file
from wavedil.ops.memory import check_memory
from wavedil.outputs import claim_file
from wavedil.writing import atomic_write

SUFFIX = ".wdil"
_FEWEST_BITS = 1e-5  # per sample: what decisions of the largest probability need
Progress = Callable[[int, int], None]


@checked
@torch.inference_mode()
def compress_file(
    model: nn.Module,
    source: AnyPath,
    target: AnyPath,
    *,
    speaker: Speaker | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compresses an audio file to its codes in the model's own bits; :func:`expand_file` returns the same codes.

    A model with 65536 linear codes keeps 16-bit sound without loss. Other models keep their codes, i.e. the sound that
    ``model.decode(model.encode(sound))`` returns. Channels are coded as separate streams.

    Args:
        model: a :class:`wavedil.audio.WaveNet` without features of the sound; the same model expands the file.
        source: an audio file at the model's sample rate.
        target: the compressed file, which is replaced.
        speaker: for a model with speakers.
        engine: as for :func:`wavedil.audio.generate`.
        progress: called with (finished, total) samples.

    Returns:
        A dict of ``file``, ``bytes``, ``bits_per_sample``, ``source_bytes``, ``seconds`` of sound, ``exact`` (whether
        the sound itself is kept) and ``real_time_factor``.

    Raises:
        WavedilError: for another sample rate, a model that cannot compress, or sound of more than 16 bits for a model
            of 16-bit codes.
    """
    _check_model(model)
    info = audio_files.info(source)
    if info.sample_rate != model.sample_rate:
        raise WavedilError(
            f"{source} has {info.sample_rate} Hz and the model {model.sample_rate} Hz: resample the file"
        )
    sound = torch.from_numpy(check_level(audio_files.read(source, mono=False)[0], source))
    codes = model.encode(sound)
    exact = bool(torch.equal(model.decode(codes), sound))
    if not exact and isinstance(model.quantizer, Linear) and model.num_codes == 65536:
        raise WavedilError(
            f"{source} ({info.subtype}) is not the 16-bit sound that this model's codes stand for: convert it to 16 bit"
        )
    header = Header(fingerprint(model)[:8], digest(codes), *codes.shape, speaker).to_bytes()
    encoder, started = Encoder(), time.perf_counter()
    with claim_file(target, [source]):
        session = _session(model, len(codes), speaker, engine)
        for done in encode_codes(session, codes, encoder):
            if progress is not None:
                progress(done, codes.shape[1])
        content = header + encoder.finish()
        with atomic_write(target) as beside:
            beside.write_bytes(content)
    seconds = codes.shape[1] / model.sample_rate
    return {
        "file": str(target),
        "bytes": len(content),
        "bits_per_sample": 8 * len(content) / codes.numel(),
        "source_bytes": Path(source).stat().st_size,
        "seconds": seconds,
        "exact": exact,
        "real_time_factor": round(seconds / (time.perf_counter() - started), 3),
    }


@checked
@torch.inference_mode()
def expand_file(
    model: nn.Module,
    source: AnyPath,
    target: AnyPath,
    *,
    engine: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Restores the sound of a compressed file.

    Args:
        model: the model that compressed it.
        source: the compressed file.
        target: the audio file to write, in 16 bits where its format has them.
        engine: as for :func:`wavedil.audio.generate`; another engine or machine than that of the compression may be
            used.
        progress: called with (finished, total) samples.

    Returns:
        A dict of ``file``, ``seconds`` of sound and ``real_time_factor``.

    Raises:
        WavedilError: the file is not a compressed one, is damaged, or is another model's; or this engine computes too
            differently from the one that compressed it. Nothing is written then.
    """
    _check_model(model)
    check_regular_file(Path(source), "a compressed file")
    header, data = Header.read(Path(source).read_bytes(), Path(source))
    if header.model != fingerprint(model)[:8]:
        raise WavedilError(f"{source} was compressed with another model: expand it with the same weights")
    channels, length = header.channels, header.samples
    if channels * length * _FEWEST_BITS > 8 * len(data) + 64:
        raise WavedilError(f"{source} is damaged: {len(data)} bytes cannot hold {length} samples; {REMEDY}")
    check_memory(24 * channels * length, f"{source} has {length} samples", "expand it on a larger machine")
    started = time.perf_counter()
    decoder, parts = Decoder(data), []
    with claim_file(target, [source]):
        session = _session(model, channels, header.speaker, engine)
        try:
            for codes in decode_codes(session, length, decoder):
                parts.append(codes.cpu())
                if progress is not None and (len(parts) % 256 == 0 or len(parts) == length):
                    progress(len(parts), length)
        except WavedilError as error:
            raise WavedilError(f"{source}: {error}") from None
        codes = torch.stack(parts, 1)
        if digest(codes) != header.codes:
            raise WavedilError(
                f"{source}: the checksum of the codes differs, since the file is damaged, or engine {engine} computes "
                f"too differently on this machine: try engine torch, or {REMEDY}"
            )
        if not decoder.is_at_end():
            raise WavedilError(f"{source} is damaged: its data do not end with the sound; {REMEDY}")
        audio_files.write(target, model.decode(codes), model.sample_rate)
    seconds = length / model.sample_rate
    factor = round(seconds / (time.perf_counter() - started), 3)
    return {"file": str(target), "seconds": seconds, "real_time_factor": factor}


def _check_model(model: nn.Module) -> None:
    if not hasattr(model, "plan"):
        raise WavedilError(f"model is {with_article(model)}, which has no distribution of sound: expected a WaveNet")
    if model.conditioner.upsampling is not None:
        raise WavedilError("model is conditioned on features of the sound, which the file does not hold: use another")


def _session(model: nn.Module, channels: int, speaker: Speaker | None, engine: str) -> Session:
    plan = model.plan()
    conditioning = model.conditioning(None, speaker, channels)
    return session_class(choose(engine, plan, channels))(plan, model.start(channels), speaker=conditioning.speaker)
