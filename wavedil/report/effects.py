"""The page of an effect model: the difference of target and output, spectra, transfer curves, ESR by knobs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wavedil.errors import WavedilError
from wavedil.report.charts import Line, chart
from wavedil.report.clips import Clip, Row
from wavedil.report.files import short, text

MEANINGS = (
    (
        "difference",
        "target minus output, as loud as it is; silence would be exact. Its spectrogram has the scale of the target's.",
    ),
    ("spectrum", "mean power in bands of a twelfth of an octave, in dB relative to the loudest band of the target."),
    (
        "transfer curve",
        "mean of the output over all moments with about the same input. A straight line amplifies only; a bend "
        "compresses or distorts. Filters spread the points around the curve.",
    ),
)


def add_differences(row: Row) -> None:
    """Adds the difference of the target and each output to a row with both."""
    target = next((clip for clip in row.clips if clip.label.startswith("wet")), None)
    outputs = [clip for clip in row.clips if not clip.label.startswith(("dry", "wet"))]
    for output in outputs if target is not None else ():
        try:
            (wet, rate, _), (sound, other, _) = target.load(), output.load()
        except WavedilError:
            continue
        size = min(len(wet), len(sound))
        energy = float(np.square(wet[:size], dtype=np.float64).sum())
        if rate != other or not energy:
            continue
        difference = wet[:size] - sound[:size]
        esr = 100 * float(np.square(difference, dtype=np.float64).sum()) / energy
        output.facts = {**output.facts, "ESR of this clip": f"{esr:.3g} %"}
        label = "difference" if len(outputs) == 1 else f"difference, {output.label}"
        row.clips.append(Clip(label, sound=difference, rate=rate, reference=wet))


def charts_html(row: Row) -> str:
    """Waveforms, spectra and transfer curves of a row with dry, wet and model."""
    sounds = {}
    for clip in row.clips:
        if clip.label.startswith("difference") or len(sounds) > 5:
            continue
        try:
            sound, rate, _ = clip.load(10.0)
        except WavedilError:
            continue
        sounds[clip.label] = sound
    if len(sounds) < 2 or not any(label.startswith("dry") for label in sounds):
        return ""
    size = min(map(len, sounds.values()))
    sounds = {label: sound[:size].astype(np.float64) for label, sound in sounds.items()}
    return (
        f"<div class=charts>{_waveforms(sounds, rate)}{_spectra(sounds, rate)}{_transfer(sounds)}</div>"
        if size >= 64
        else ""
    )


def _waveforms(sounds: dict[str, np.ndarray], rate: int) -> str:
    """About 15 ms around the loudest moment of the target, on one time axis."""
    wet = next((sound for label, sound in sounds.items() if label.startswith("wet")), next(iter(sounds.values())))
    size = min(len(wet), max(64, round(0.015 * rate)))
    start = int(np.clip(np.abs(wet).argmax() - size // 2, 0, len(wet) - size))
    times = 1000 * np.arange(start, start + size) / rate
    lines = [
        Line(label, list(zip(times.tolist(), sound[start : start + size].tolist(), strict=True)), index)
        for index, (label, sound) in enumerate(sounds.items())
    ]
    return chart(lines, "time in ms", "amplitude")


def _spectra(sounds: dict[str, np.ndarray], rate: int) -> str:
    powers = {label: _bands(sound, rate) for label, sound in sounds.items()}
    loudest = max([power for label, band in powers.items() if label.startswith("wet") for _, power in band] or [1.0])
    lines = [
        Line(label, [(hz, max(-100.0, 10 * np.log10(power / (loudest or 1.0) + 1e-12))) for hz, power in band], index)
        for index, (label, band) in enumerate(powers.items())
    ]
    return chart(lines, "frequency in Hz", "power in dB", log_x=True)


def _bands(sound: np.ndarray, rate: int) -> list[tuple[float, float]]:
    """Center in Hz and mean power of bands of a twelfth of an octave from 30 Hz."""
    size = min(4096, len(sound))
    hop = max(1, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop] * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1))).mean(0)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    edges = 30 * 2 ** (np.arange(0, 12 * np.log2(max(rate / 60, 2))) / 12)
    bands = np.searchsorted(frequencies, edges)
    found = []
    for low, high, start, stop in zip(edges[:-1], edges[1:], bands[:-1], bands[1:], strict=True):
        if stop > start:
            found.append((float(np.sqrt(low * high)), float(power[start:stop].mean())))
    return found


def _transfer(sounds: dict[str, np.ndarray]) -> str:
    """Mean output over the input, in 60 intervals of the input."""
    dry = next(sound for label, sound in sounds.items() if label.startswith("dry"))
    high = float(np.quantile(np.abs(dry), 0.999))
    if not high:
        return ""
    edges = np.linspace(-high, high, 61)
    index = np.digitize(dry, edges) - 1
    lines = []
    for number, (label, sound) in enumerate(sounds.items()):
        if label.startswith("dry"):
            continue
        points = [
            (float((edges[i] + edges[i + 1]) / 2), float(sound[index == i].mean()))
            for i in range(60)
            if np.count_nonzero(index == i) >= 5
        ]
        lines.append(Line(label, points, number))
    return chart(lines, "input (dry)", "mean output")


def esr_html(validation: dict[str, Any]) -> str:
    """ESR of the held-out segments by their knob settings."""
    segments = validation.get("segments")
    if not isinstance(segments, list) or not segments:
        return ""
    settings: dict[tuple, list[float]] = {}
    try:
        for segment in segments[:100_000]:
            knobs = tuple(sorted((str(name), float(value)) for name, value in segment["knobs"].items()))
            sums = settings.setdefault(knobs, [0.0, 0.0, 0])
            sums[0] += float(segment["error"])
            sums[1] += float(segment["signal"])
            sums[2] += 1
    except (KeyError, TypeError, ValueError, AttributeError):
        return ""
    rows = [
        (knobs, 100 * error / signal, count) for knobs, (error, signal, count) in sorted(settings.items()) if signal > 0
    ]
    names = sorted({name for knobs, _, _ in rows for name, _ in knobs})
    head = "".join(f"<th class=number scope=col>{text(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td class=number>{dict(knobs).get(name, float('nan')):.4g}</td>" for name in names)
        + f"<td class=number>{esr:.3g}</td><td class=number>{count}</td></tr>"
        for knobs, esr, count in rows[:200]
    )  # fmt: skip
    title = "ESR by knob setting, held-out segments" if names else "ESR of the held-out segments"
    picture = ""
    if len(names) == 1:
        points = [(knobs[0][1], esr) for knobs, esr, _ in rows if knobs]
        picture = chart([Line("held-out segments", points, 0, marks=True)], names[0], "ESR in %", _from_zero(points))
    step = validation.get("step")
    return (
        f"<h2>{title}</h2><p class=note>At step {text(step)}, of the saved model. Lower is better.</p>"
        f"<div class=charts>{picture}<div class=scroll><table><thead><tr>{head}<th class=number scope=col>ESR in %</th>"
        f"<th class=number scope=col>segments</th></tr></thead><tbody>{body}</tbody></table></div></div>"
        + _networks_html(validation)
    )


def _networks_html(validation: dict[str, Any]) -> str:
    """ESR of each network of a model that has several."""
    networks = validation.get("networks")
    if not isinstance(networks, list) or len(networks) < 2:
        return ""
    try:
        body = "".join(
            f"<tr><th scope=row>{text(short(each['name']))}</th><td class=number>{int(each['parameters']):,}</td>"
            f"<td class=number>{float(each['esr']):.3g}</td></tr>"
            for each in networks[:100]
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""
    return (
        "<h3>ESR of each network</h3><p class=note>On all held-out segments. The table above is of the last network."
        "</p><div class=scroll><table><thead><tr><th scope=col>network</th><th class=number scope=col>parameters</th>"
        f"<th class=number scope=col>ESR in %</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _from_zero(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    return (0.0, 1.1 * max(esr for _, esr in points)) if points and max(esr for _, esr in points) > 0 else None
