"""Plays an effect: from an input device through the model to an output device."""

import gc
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import numpy as np

from wavedil.audio.effects.devices import LIST, Device, find_device, import_sounddevice
from wavedil.audio.effects.live import LiveEffect
from wavedil.audio.models.effect_model import EffectModel, parse_knobs
from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError

Block = Annotated[int, Range(16, 8192)]
WARM_UP = 8  # blocks of silence before the first one: the first calls of compiled code and of torch are slow
INTERVAL = 0.1  # seconds between two updates of the meters

_log = logging.getLogger("wavedil")


class Callback:
    """Processes one block; PortAudio calls it in a thread of its own.

    It must not raise or wait, or the sound stops. A block that the effect refuses is played as silence and counted.

    Args:
        effect: of one channel.
        channel: of the input, from 0.

    Attributes:
        samples: number of samples played.
        xruns: number of blocks before which the device lost input or had no output to play.
        failed: number of blocks played as silence.
        error: message of the first of them; None without.
        input_peak, output_peak: largest absolute values.
        input_level, output_level: the same since the last :meth:`meters`.
        seconds, slowest: seconds of computation in total, and of the slowest block in units of its duration.
    """

    def __init__(self, effect: LiveEffect, channel: int):
        self.effect, self.channel, self.rate = effect, channel, effect.model.sample_rate
        self.samples = self.xruns = self.failed = 0
        self.error: str | None = None
        self.input_peak = self.output_peak = self.input_level = self.output_level = 0.0
        self.seconds = self.slowest = 0.0

    def __call__(self, indata: np.ndarray, outdata: np.ndarray, frames: int, times: Any, status: Any) -> None:
        started = time.perf_counter()
        if status:
            self.xruns += 1
        try:
            x = indata[:, self.channel]
            y = self.effect.process(x)
            level, result = _peak(x), _peak(y)
            if not result < math.inf:
                raise WavedilError("the effect's output has NaN or infinity")
            np.clip(y[:, None], -1, 1, out=outdata)
            self.input_level, self.output_level = max(self.input_level, level), max(self.output_level, result)
            self.input_peak, self.output_peak = max(self.input_peak, level), max(self.output_peak, result)
        except Exception as error:  # whatever happens, the sound goes on
            outdata.fill(0)
            self.failed += 1
            self.error = self.error or str(error)
        self.samples += frames
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds * self.rate / frames)

    @property
    def load(self) -> float:
        """Share of the time that the computation takes; above 1 it is slower than the sound."""
        return self.seconds * self.rate / self.samples if self.samples else 0.0

    def meters(self) -> str:
        """One line: peaks since the last call in dBFS, load, and xruns."""
        peaks = self.input_level, self.output_level
        self.input_level = self.output_level = 0.0
        before, after = (f"{max(-99.9, 20 * math.log10(peak or 1e-9)):5.1f} dBFS" for peak in peaks)
        return f"in {before}  out {after}  load {self.load:4.0%}, slowest {self.slowest:4.0%}  xruns {self.xruns}"


@checked
def play(
    model: EffectModel,
    knobs: Mapping[str, float] | None = None,
    *,
    input_device: str | int | None = None,
    output_device: str | int | None = None,
    input_channel: Annotated[int, Range(1, 1024)] = 1,
    block: Block = 128,
    seconds: Annotated[float, Range(0, 1e9)] | None = None,
    lines: Iterable[str] = (),
    show: Callable[[str], None] | None = None,
    report: Callable[[str], None] = _log.warning,
) -> dict[str, Any]:
    """Plays sound from an input device through an effect to an output device, until Ctrl-C.

    Needs the extra ``live`` (the package sounddevice). All channels of the output, at most two, have the same sound.

    Args:
        model: the effect, which runs at its own sample rate.
        knobs: settings by name.
        input_device, output_device: number or name, see :func:`wavedil.audio.effects.devices.find_device`; None for the
            default device of the system.
        input_channel: the channel of the input to process, from 1.
        block: samples per block. Smaller blocks have less delay and need more computation.
        seconds: duration; None until Ctrl-C (``KeyboardInterrupt``).
        lines: texts with new settings such as ``"gain=0.7"``, read in a thread while the sound plays, e.g.
            ``sys.stdin``.
        show: called ten times a second with a line of levels and load.
        report: called with the message of a setting or a block that is refused; default: logs it.

    Returns:
        A dict of

        - ``seconds`` of sound, ``sample_rate``, ``block``, ``knobs``, ``input_device`` and ``output_device`` (names);
        - ``latency_ms`` from input to output as the devices state it, or None;
        - ``input_peak_dbfs``, ``output_peak_dbfs``: None for silence;
        - ``xruns``: number of blocks before which the device lost input or had no output to play;
        - ``load``, ``slowest_block``: mean and largest share of a block's duration that its computation took;
        - ``failed_blocks``: number of blocks that the effect refused, and which were played as silence.

    Raises:
        WavedilError: there is no such device, it does not support the model's sample rate, or an argument is refused.
    """
    sounddevice = import_sounddevice()
    (source, input_about), (target, output_about) = (
        find_device(sounddevice, kind, device) for kind, device in (("input", input_device), ("output", output_device))
    )
    inputs, outputs = input_about["max_input_channels"], output_about["max_output_channels"]
    if input_channel > inputs:
        raise WavedilError(
            f"input_channel is {input_channel}: expected at most {inputs}, those of {input_about['name']}"
        )
    effect = LiveEffect(model, knobs, source="input")  # with a name, it does not warn
    for _ in range(WARM_UP):
        effect.process(np.zeros(block, np.float32))
    callback, settings = Callback(effect, input_channel - 1), queue.Queue[str](1)
    stream = _open(
        sounddevice,
        model.sample_rate,
        (input_about, output_about),
        blocksize=block,
        device=(source, target),
        channels=(input_channel, min(2, outputs)),
        dtype="float32",
        latency="low",
        callback=callback,
    )
    threading.Thread(target=_read, args=(lines, settings), daemon=True).start()
    gc.collect()
    gc.freeze()  # a full collection, 0.35 s on the machine of docs/measurements.md, would be an xrun
    try:
        with suppress(KeyboardInterrupt), stream:
            _follow(stream, callback, settings, seconds, show, report)
    except getattr(sounddevice, "PortAudioError", ()) as error:
        raise WavedilError(f"the audio devices stopped: {error}; connect them again, or choose others {LIST}") from None
    finally:
        gc.unfreeze()
    latency = getattr(stream, "latency", None)
    return {
        "seconds": round(callback.samples / model.sample_rate, 3),
        "sample_rate": model.sample_rate,
        "block": block,
        "input_device": input_about["name"],
        "output_device": output_about["name"],
        "latency_ms": None if latency is None else round(1000 * float(np.sum(latency)), 1),
        "knobs": effect.knobs,
        "input_peak_dbfs": _decibels(callback.input_peak),
        "output_peak_dbfs": _decibels(callback.output_peak),
        "xruns": callback.xruns,
        "load": round(callback.load, 4),
        "slowest_block": round(callback.slowest, 4),
        "failed_blocks": callback.failed,
    }


def _open(sounddevice: Any, rate: int, devices: tuple[Device, Device], **options: Any) -> Any:
    """A stream that is not started. Raises WavedilError if the devices do not support the options."""
    try:
        return sounddevice.Stream(samplerate=rate, **options)
    except Exception as error:  # sounddevice.PortAudioError
        names = " and ".join(
            f"{kind} {about['name']} (default {about['default_samplerate']:.0f} Hz)"
            for kind, about in zip(("input", "output"), devices, strict=True)
        )
        remedy = f"choose another device {LIST}"
        if "sample rate" in str(error).lower():
            remedy = f"set the devices to {rate} Hz in the system, or choose others {LIST}"
        raise WavedilError(f"{names} cannot be opened at the model's {rate} Hz: {error}; {remedy}") from None


def _read(lines: Iterable[str], settings: "queue.Queue[str]") -> None:
    with suppress(OSError, ValueError):  # a closed input
        for line in lines:
            settings.put(line)


def _follow(
    stream: Any,
    callback: Callback,
    settings: "queue.Queue[str]",
    seconds: float | None,
    show: Callable[[str], None] | None,
    report: Callable[[str], None],
) -> None:
    """Applies new knob settings and prints levels until the end."""
    reported, shown = False, -math.inf
    while seconds is None or callback.samples < seconds * callback.rate:
        try:
            values = parse_knobs(settings.get(timeout=INTERVAL).split())
            if values:
                callback.effect.knobs = callback.effect.knobs | values
        except queue.Empty:
            pass
        except WavedilError as error:
            report(str(error))
        if callback.error is not None and not reported:
            report(f"{callback.error}; such blocks are played as silence")
            reported = True
        if show is not None and time.monotonic() > shown + INTERVAL:
            show(callback.meters())
            shown = time.monotonic()
        if not getattr(stream, "active", True):
            raise WavedilError(
                f"the devices stopped after {callback.samples / callback.rate:.1f} s: connect them again"
            )


def _peak(sound: np.ndarray) -> float:
    return max(float(sound.max()), -float(sound.min()))


def _decibels(peak: float) -> float | None:
    return round(20 * math.log10(peak), 1) if peak > 0 else None
