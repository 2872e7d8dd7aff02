"""Audio devices, by the package sounddevice, which brings or finds PortAudio."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from wavedil.errors import WavedilError, one_of

Device = Mapping[str, Any]
KINDS = ("input", "output")
LIST = "(wavedil live --list-devices)"


def import_sounddevice() -> ModuleType:
    """Raises WavedilError if PortAudio is missing; ModuleNotFoundError without sounddevice."""
    try:
        import sounddevice
    except OSError as error:
        raise WavedilError(
            f"sounddevice cannot load PortAudio ({error}): install PortAudio, e.g. apt install libportaudio2, "
            "dnf install portaudio, or brew install portaudio"
        ) from None
    return sounddevice


def list_devices(sounddevice: ModuleType) -> list[Device]:
    """All devices, in the order of their numbers.

    Raises:
        WavedilError: there is none.
    """
    try:
        devices = list(sounddevice.query_devices())
    except Exception as error:  # sounddevice.PortAudioError
        raise WavedilError(f"the audio devices cannot be listed: {error}") from None
    if not devices:
        raise WavedilError("no audio device found: connect one, and check that the system plays sound with it")
    return devices


def find_device(sounddevice: ModuleType, kind: str, device: str | int | None) -> tuple[int, Device]:
    """Finds an input or output device.

    Args:
        kind: ``"input"`` or ``"output"``.
        device: its number, its name, or a part of the name that no other device of this kind has, in any case; None for
            the default device of the system.

    Returns:
        The device's number, and its properties.

    Raises:
        WavedilError: no device has this name, or several have.
    """
    devices = list_devices(sounddevice)
    names = [str(each["name"]) for each in devices]
    suitable = [number for number, each in enumerate(devices) if each[f"max_{kind}_channels"] > 0]
    option = f"{kind}_device"
    if not suitable:
        raise WavedilError(f"no device has an {kind}: connect one {LIST}")
    if device is None:
        try:
            default = sounddevice.query_devices(kind=kind)
        except Exception:  # sounddevice.PortAudioError
            raise WavedilError(f"the system has no default {kind} device: choose one by {option} {LIST}") from None
        return int(default.get("index", names.index(str(default["name"])))), default
    text = str(device).strip()
    if text.isdecimal():
        found = [int(text)] if int(text) in suitable else []
    else:
        found = [number for number in suitable if names[number].casefold() == text.casefold()]
        found = found or [number for number in suitable if text and text.casefold() in names[number].casefold()]
    if len(found) == 1:
        return found[0], devices[found[0]]
    if found:
        choices = ", ".join(f"{number} ({names[number]})" for number in found)
        raise WavedilError(
            f"{option} is {text!r}, which several devices are called: expected one of the numbers {choices}"
        )
    if text.isdecimal() and int(text) < len(devices):
        raise WavedilError(
            f"{option} is {text}, but {names[int(text)]} has no {kind}: expected one of {suitable} {LIST}"
        )
    expected = one_of(text, [names[number] for number in suitable])
    raise WavedilError(f"{option} is {text!r}: expected a number {LIST}, or {expected}")


def device_table(sounddevice: ModuleType) -> str:
    """One line per device: number, inputs, outputs, default rate and name; ``>`` marks the default input, ``<`` the
    default output."""
    defaults = []
    for kind in KINDS:
        try:
            defaults.append(find_device(sounddevice, kind, None)[0])
        except WavedilError:
            defaults.append(-1)
    lines = ["    number  inputs  outputs  default rate  name"]
    for number, device in enumerate(list_devices(sounddevice)):
        marks = "".join(mark if number == default else " " for mark, default in zip("><", defaults, strict=True))
        counts = device["max_input_channels"], device["max_output_channels"], device["default_samplerate"]
        lines.append(f"{marks:>3} {number:6}  {counts[0]:6}  {counts[1]:7}  {counts[2]:9.0f} Hz  {device['name']}")
    return "\n".join([*lines, "", "> is the default input, < is the default output"])
