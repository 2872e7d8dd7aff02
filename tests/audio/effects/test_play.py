"""Playing through audio devices: the callback, and finding devices."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, LiveEffect
from wavedil.audio.effects.devices import device_table, find_device
from wavedil.audio.effects.play import Callback, play
from wavedil.errors import WavedilError

RATE = 8000


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Effect(4, 4, "1,2,4", knobs={"gain": [0, 1]}, sample_rate=RATE).eval()


def call(callback, sound, outputs=2, status=None):
    out = np.full((len(sound), outputs), 7, np.float32)
    callback(sound, out, len(sound), None, status)
    return out


def test_blocks_of_one_channel_are_processed_and_measured(model):
    sound = 0.1 * np.random.default_rng(0).standard_normal((600, 3)).astype(np.float32)
    callback = Callback(LiveEffect(model, {"gain": 0.3}), 1)
    parts = [call(callback, sound[:250]), call(callback, sound[250:], status="input overflow")]
    expected = LiveEffect(model, {"gain": 0.3}).process(sound[:, 1])
    for channel in range(2):
        np.testing.assert_array_equal(np.concatenate(parts)[:, channel], expected)
    assert (callback.samples, callback.xruns, callback.failed) == (600, 1, 0)
    assert callback.input_peak == np.abs(sound[:, 1]).max() and callback.output_peak == np.abs(expected).max()
    assert callback.load > 0 and callback.slowest > 0
    level = 20 * np.log10(callback.input_peak)
    assert f"in {level:5.1f} dBFS" in callback.meters() and "xruns 1" in callback.meters()
    assert "in -99.9 dBFS  out -99.9 dBFS" in callback.meters()  # nothing since the last call
    call(callback, np.ones((8, 3), np.float32))
    assert "in   0.0 dBFS" in callback.meters()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 40])
def test_the_callback_plays_silence_and_raises_nothing_for_a_bad_block(model, bad):
    callback = Callback(LiveEffect(model, {"gain": 0.3}, source="input"), 0)
    first = call(callback, np.full((16, 1), 0.1, np.float32))
    assert not call(callback, np.full((16, 1), bad, np.float32)).any() and callback.failed == 1
    assert "NaN or infinity" in callback.error or "has a peak of" in callback.error
    again = call(callback, np.full((16, 1), 0.1, np.float32))
    assert np.isfinite(again).all() and again.any() and first.any() and callback.samples == 48


def test_an_output_of_nan_is_silence_and_a_loud_one_is_clipped(model):
    effect = SimpleNamespace(model=model, process=lambda x: x * np.nan)
    callback = Callback(effect, 0)
    assert not call(callback, np.ones((4, 1), np.float32)).any() and "output has NaN" in callback.error
    effect.process = lambda x: 3 * x
    np.testing.assert_array_equal(call(callback, np.ones((4, 1), np.float32)), np.ones((4, 2)))
    assert callback.output_peak == 3


def devices(*names, default=0):
    """A module like sounddevice with devices (name, inputs, outputs)."""
    found = [
        {"name": name, "max_input_channels": i, "max_output_channels": o, "default_samplerate": 44100.0}
        for name, i, o in names
    ]

    def query_devices(device=None, kind=None):
        if kind and default is None:
            raise RuntimeError("Error querying device -1")
        return found[default] if kind else found

    return SimpleNamespace(query_devices=query_devices)


MANY = devices(("Built-in", 2, 0), ("USB Audio (front)", 2, 2), ("usb audio (back)", 0, 2), ("Built-in", 0, 2))


@pytest.mark.parametrize(
    ("kind", "device", "number"),
    [
        ("input", None, 0),
        ("input", "1", 1),
        ("output", 2, 2),
        ("input", "built-in", 0),
        ("output", "BUILT-IN", 3),
        ("input", "usb", 1),
        ("output", "back", 2),
    ],
)
def test_devices_are_found_by_number_and_name(kind, device, number):
    assert find_device(MANY, kind, device)[0] == number


@pytest.mark.parametrize(
    ("sounddevice", "kind", "device", "message"),
    [
        (
            MANY,
            "output",
            "usb",
            r"output_device is 'usb', which several .* 1 \(USB Audio \(front\)\), 2 \(usb audio",
        ),
        (MANY, "input", "3", r"is 3, but Built-in has no input: expected one of \[0, 1\]"),
        (MANY, "input", "9", r"is '9': expected a number"),
        (MANY, "input", "Bildin", "expected a number .*, or one of Built-in, USB Audio .front.; did you mean Built-in"),
        (MANY, "input", "", "is '': expected a number"),
        (devices(), "input", None, "no audio device found"),
        (devices(("Speaker", 0, 2)), "input", None, "no device has an input"),
        (devices(("Mic", 1, 0), default=None), "input", None, "no default input device: choose one by input_device"),
    ],
)
def test_other_devices_are_refused(sounddevice, kind, device, message):
    with pytest.raises(WavedilError, match=message):
        find_device(sounddevice, kind, device)


def test_the_table_marks_the_default_devices():
    lines = device_table(devices(("Mic", 1, 0), ("Both", 2, 6), default=1)).splitlines()
    assert lines[1].split() == ["0", "1", "0", "44100", "Hz", "Mic"]
    assert lines[2].split() == ["><", "1", "2", "6", "44100", "Hz", "Both"]


def test_play_reports_and_returns_what_json_can_hold(model, monkeypatch):
    """With a device whose callback PortAudio never calls, and 0 seconds."""

    class Stream:
        def __init__(self, **options):
            self.options = options

        def __enter__(self): ...

        def __exit__(self, *_): ...

    fake = devices(("Mic", 1, 1))
    fake.Stream = Stream
    monkeypatch.setitem(__import__("sys").modules, "sounddevice", fake)
    result = play(model, {"gain": 1.0}, seconds=0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["input_peak_dbfs"] is None and result["seconds"] == 0 and result["knobs"] == {"gain": 1.0}
