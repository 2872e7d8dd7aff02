"""Paired recordings of an effect: read, examined, aligned, cut into segments, and split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.audio.data.alignment import Align, choose_shifts, estimate_delay, parse_align, shift_pair
from wavedil.audio.data.captures import Findings, cut_short, delay_line, find_replicate, level_findings
from wavedil.audio.data.dropouts import fault_lines, find_faults
from wavedil.audio.data.levels import Levels, check_level
from wavedil.audio.data.recording_files import Recording
from wavedil.audio.data.resampling import log_resampling
from wavedil.errors import WavedilError
from wavedil.splits import EVERY, describe_split, hold_out

_UNEQUAL = 0.25  # of the longer file, by which input and target may differ in length


@dataclass(frozen=True)
class Segment:
    """Input and target ``(frames,)`` float32, which start at time 0 of the model; samples from ``skip`` on count."""

    name: str
    input: np.ndarray
    target: np.ndarray
    knobs: dict[str, float]
    skip: int

    def __len__(self) -> int:
        return len(self.input)


def split_recordings(
    recordings: Sequence[Recording],
    sample_rate: int,
    *,
    context: int,
    validation: str | None = None,
    resample: bool = False,
    align: Align = "auto",
) -> tuple[list[Segment], list[Segment], Findings]:
    """Reads recordings and splits them into segments for training and for validation.

    The first of these rules that applies decides:

    1. the table's column ``held_out``;
    2. recordings whose input path (without suffix) matches ``validation`` are held out;
    3. with 10 recordings or more, every tenth is held out;
    4. the last tenth of each recording is held out: of its segments, or, for a continuous recording, of its time.

    Args:
        recordings: see :func:`wavedil.audio.data.recording_files.find_recordings`.
        sample_rate: of the model, in Hz.
        context: number of samples before the last tenth of a continuous recording that its held-out segment also has
            as input, but that do not count.
        validation: regular expression, see rule 2.
        resample: resample recordings of another rate instead of raising.
        align: see :func:`read_recordings`.

    Returns:
        Training segments, held-out segments, and findings, of which the first line describes the split.

    Raises:
        WavedilError: as :func:`read_recordings`; ``validation`` for a table with a column ``held_out``; or nothing to
            train or to validate on.
    """
    counts = held = None  # number of held-out segments of each recording; whether each recording is held out
    if any(recording.held_out is not None for recording in recordings):
        if validation is not None:
            raise WavedilError(f"validation is {validation!r}, but the table has a column held_out: remove one of them")
        counts, rule = [recording.held_out or 0 for recording in recordings], "column held_out of the table"
    elif validation is not None or len(recordings) >= EVERY:
        held, rule = hold_out([recording.input for recording in recordings], validation, kind="recordings")
    else:
        rule = "the last tenth of each recording is held out"
    found, findings = read_recordings(recordings, sample_rate, context=context, resample=resample, align=align)
    train, valid = [], []
    for index, segments in enumerate(found):
        if counts is not None:
            if counts[index] > len(segments):
                raise WavedilError(
                    f"{recordings[index].target}: held_out is {counts[index]}: expected at most its {len(segments)} "
                    "segments"
                )
            border = len(segments) - counts[index]
        elif held is not None:
            border = 0 if held[index] else len(segments)
        else:
            if len(segments) == 1:
                segments = _split_in_time(segments[0], context)
            border = len(segments) - max(1, len(segments) // EVERY)
        train, valid = [*train, *segments[:border]], [*valid, *segments[border:]]
    findings.lines.insert(0, describe_split(rule, len(train), len(valid), "segments"))
    return train, valid, findings


def _split_in_time(segment: Segment, context: int) -> list[Segment]:
    """The first nine tenths and the last tenth, which also has ``context`` samples before it as input."""
    border = segment.skip + (len(segment) - segment.skip) * (EVERY - 1) // EVERY
    start = max(0, border - context)
    first = replace(segment, input=segment.input[:border], target=segment.target[:border])
    last = replace(
        segment,
        name=f"{segment.name} from sample {start}",
        input=segment.input[start:],
        target=segment.target[start:],
        skip=border - start,
    )
    for part in (first, last):
        _check_not_silent(part)
    return [first, last]


def read_recordings(
    recordings: Sequence[Recording],
    sample_rate: int,
    *,
    context: int = 0,
    resample: bool = False,
    align: Align = "auto",
) -> tuple[list[list[Segment]], Findings]:
    """Reads recordings, mixed to mono, removes delays, and cuts each recording into its segments.

    A longer file of a pair is cut to the length of the other, and a target that ends in digital silence is cut there.

    Args:
        recordings: see :func:`wavedil.audio.data.recording_files.find_recordings`.
        sample_rate: of the model, in Hz.
        context: samples before each output that the model receives; passes of one passage are compared after as many.
        resample: resample recordings of another rate instead of raising.
        align: ``"auto"`` estimates and removes the delay of each target, see
            :func:`wavedil.audio.data.alignment.choose_shifts`; ``"none"``; or samples by which all targets are late.

    Returns:
        Segments of each recording, and findings: delay, polarity, levels, lengths, drop-outs, noise floor.

    Raises:
        WavedilError: the sample rate is not the model's (unless ``resample``), input and target differ much in length,
            the length is not a multiple of ``segment``, ``skip`` is not below the length of a segment, a peak exceeds
            16, or an input, or a target after ``skip``, is silent or constant.
    """
    align = parse_align(align, sample_rate)
    findings, levels, noise_floors = Findings(), Levels(), []
    pairs = [_read_pair(recording, sample_rate, resample, levels, findings) for recording in recordings]
    log_resampling(Counter(findings.rates.values()), sample_rate)
    levels.warn()
    is_same = [np.array_equal(*pair) for pair in pairs]
    delays = [
        estimate_delay(*pair, sample_rate) if align == "auto" and not same else None
        for pair, same in zip(pairs, is_same, strict=True)
    ]
    shifts = choose_shifts(delays, align, sample_rate)
    found, inputs = [], set()
    for recording, pair, delay, shift, same in zip(recordings, pairs, delays, shifts, is_same, strict=True):
        segments = [_aligned(segment, shift) for segment in _cut(recording, *pair)]
        found.append(segments)
        dry, wet = (np.concatenate([getattr(s, side)[s.skip :] for s in segments]) for side in ("input", "target"))
        name, dry_name = str(recording.target), str(recording.input)
        line = delay_line(name, dry_name, delay, shift, align, sample_rate)
        if same:
            line = f"{name} is identical to its input: check that it is the recording of the effect"
        findings.lines += [line] if line else []
        findings.lines += level_findings(name, wet)
        if recording.input not in inputs:
            inputs.add(recording.input)
            findings.lines += level_findings(dry_name, dry)
        if not same:
            early = shift_pair(*pair, shift)
            faults = find_faults(*early, sample_rate)
            findings.lines += fault_lines(faults, name, sample_rate, max(shift, 0))
        is_pair = not same and (delay.certain if delay is not None else align not in ("auto", "none"))
        replicate = find_replicate(dry, wet, context) if is_pair and not recording.segment else None
        if replicate is not None:
            findings.lines.append(replicate.line(name, dry_name, sample_rate))
            noise_floors.append(replicate.esr_percent)
    findings.noise_floor = max(noise_floors, default=None)
    return found, findings


def _cut(recording: Recording, dry: np.ndarray, wet: np.ndarray) -> list[Segment]:
    size = recording.segment or len(dry)
    if len(dry) % size:
        raise WavedilError(f"{recording.target} has {len(dry)} samples: expected a multiple of segment {size}")
    if recording.skip >= size:
        raise WavedilError(f"{recording.target}: skip is {recording.skip}: expected less than a segment, {size}")
    segments = []
    for start in range(0, len(dry), size):
        name = str(recording.target) if size == len(dry) else f"{recording.target}, segment {start // size}"
        pair = (sound[start : start + size] for sound in (dry, wet))
        segments.append(Segment(name, *pair, recording.knobs, recording.skip))
        _check_not_silent(segments[-1])
    return segments


def _aligned(segment: Segment, shift: int) -> Segment:
    if len(segment) - segment.skip <= abs(shift):
        raise WavedilError(
            f"{segment.name} has {len(segment)} samples, too few for a delay of {shift}: set data.align to another "
            "number or to none"
        )
    dry, wet = shift_pair(segment.input, segment.target, shift)
    return replace(segment, input=dry, target=wet)


def _read_pair(
    recording: Recording, sample_rate: int, resample: bool, levels: Levels, findings: Findings
) -> tuple[np.ndarray, np.ndarray]:
    paths = recording.input, recording.target
    properties = [audio_files.info(path) for path in paths]
    rates = [each.sample_rate for each in properties]
    if rates[0] != rates[1] and not resample:
        raise WavedilError(
            f"{paths[0]} has {rates[0]} Hz and {paths[1]} {rates[1]} Hz: expected the same; record or export again, or "
            "resample (--data.resample true in training, --resample elsewhere)"
        )
    if rates[0] != sample_rate and not resample:
        raise WavedilError(
            f"{paths[0]} has {rates[0]} Hz and the model {sample_rate} Hz: set the model's sample_rate "
            f"(--model.network.sample_rate {rates[0]}), or resample the file (--data.resample true in training, "
            "--resample elsewhere)"
        )
    findings.rates.update(zip(paths, rates, strict=True))
    channels = [each.channels for each in properties]
    if channels[0] != channels[1]:
        findings.lines.append(
            f"{paths[1]} has {channels[1]} channels and {paths[0]} {channels[0]}: both are mixed to mono"
        )
    dry, wet = (check_level(audio_files.read(path, sample_rate=sample_rate)[0][0], path, levels) for path in paths)
    for path, sound in zip(paths, (dry, wet), strict=True):
        if not np.ptp(sound):
            what = f"constant at {sound[0]:g}" if sound[0] else "silent"
            raise WavedilError(f"{path} is {what} in all its {len(sound)} samples: record or export it again")
    return _equal_lengths(recording, dry, wet, sample_rate, findings)


def _equal_lengths(
    recording: Recording, dry: np.ndarray, wet: np.ndarray, sample_rate: int, findings: Findings
) -> tuple[np.ndarray, np.ndarray]:
    """Both sounds, cut to the length of the shorter one."""
    sizes, size = (len(dry), len(wet)), min(len(dry), len(wet))
    if sizes[0] != sizes[1]:
        text = f"{recording.input} has {sizes[0]} samples and {recording.target} {sizes[1]}"
        if recording.segment or max(sizes) - size > _UNEQUAL * max(sizes):
            raise WavedilError(f"{text}: expected the same; cut them to the part that they share")
        rest = max(sizes) - size
        longer = recording.input if sizes[0] > sizes[1] else recording.target
        findings.lines.append(f"{text}: the last {rest} samples ({rest / sample_rate:.3g} s) of {longer} are ignored")
        dry, wet = dry[:size], wet[:size]
    stop = None if recording.segment else cut_short(dry, wet, sample_rate)
    if stop is not None:
        text = f"{recording.target} is silent from {stop / sample_rate:.2f} s to its end at {size / sample_rate:.2f} s"
        if stop < (1 - _UNEQUAL) * size:
            raise WavedilError(f"{text}, but {recording.input} is not: record it again, or cut both files")
        findings.lines.append(f"{text}, but {recording.input} is not: the rest of both files is ignored")
        dry, wet = dry[:stop], wet[:stop]
    return dry, wet


def _check_not_silent(segment: Segment) -> None:
    if not np.ptp(segment.target[segment.skip :]):
        raise WavedilError(
            f"{segment.name} is silent or constant from sample {segment.skip} on, so its ESR means nothing: remove it"
        )
