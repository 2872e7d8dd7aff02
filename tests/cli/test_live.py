"""``wavedil live`` with a module in place of sounddevice."""

import json
import sys
import threading
import time
from types import ModuleType

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, save
from wavedil.audio.models.nam import NAM, LayerArray
from wavedil.extras import install_extra

RATE = 8000


class FakeSounddevice(ModuleType):
    """Devices whose input is a sine; the thread of a stream calls the callback once :attr:`start` is set."""

    def __init__(self):
        super().__init__("sounddevice")
        self.start, self.played, self.streams = threading.Event(), [], []
        self.devices = [
            {"name": name, "index": i, "max_input_channels": 2, "max_output_channels": 2, "default_samplerate": 44100.0}
            for i, name in enumerate(("Built-in", "USB Audio"))
        ]
        self.rates, self.flag, self.blocks = (RATE,), None, 1000
        fake = self

        class Stream:
            latency = (0.001, 0.002)

            def __init__(self, **options):
                if options["samplerate"] not in fake.rates:
                    raise fake.PortAudioError("Error opening Stream: Invalid sample rate [PaErrorCode -9997]")
                self.options, self.active = options, True
                fake.streams.append(self)

            def __enter__(self):
                if fake.blocks is None:
                    raise fake.PortAudioError("Error starting stream: Device unavailable [PaErrorCode -9985]")
                self.thread = threading.Thread(target=self.run)
                self.thread.start()

            def __exit__(self, *_):
                self.active = False
                fake.start.set()
                self.thread.join()

            def run(self):
                fake.start.wait()
                size = self.options["blocksize"]
                for index in range(fake.blocks):
                    if not self.active:
                        return
                    times = np.arange(index * size, (index + 1) * size, dtype=np.float32)
                    sound = np.zeros((size, self.options["channels"][0]), np.float32)
                    sound[:, -1] = 0.5 * np.sin(times / 3)
                    out = np.zeros((size, self.options["channels"][1]), np.float32)
                    self.options["callback"](sound, out, size, None, fake.flag)
                    fake.played.append(out)
                    time.sleep(0)
                self.active = False

        self.Stream, self.PortAudioError = Stream, type("PortAudioError", (Exception,), {})

    def query_devices(self, device=None, kind=None):
        return self.devices[0] if kind else self.devices


@pytest.fixture
def sounddevice(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSounddevice())
    return sys.modules["sounddevice"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    model = Effect(4, 4, "1,2,4", knobs={"gain": [0, 1]}, sample_rate=RATE)
    return save(model, tmp_path_factory.mktemp("models") / "model")


class Typing:
    """Standard input with lines; the device starts when all of them are used."""

    def __init__(self, sounddevice, *lines):
        self.sounddevice, self.lines = sounddevice, lines

    def fileno(self):
        raise ValueError("no file")

    def __iter__(self):
        for line in self.lines:
            yield f"{line}\n"
        yield "\n"  # the one before is used when there is room for this one
        yield "\n"
        self.sounddevice.start.set()


def test_it_plays_and_knobs_are_typed(run, model, sounddevice, monkeypatch):
    lines = ["gain=0.7", "gain=3", "tone=1", "what", "gain=0.2 gain=0.3"]
    monkeypatch.setattr(sys, "stdin", Typing(sounddevice, *lines))
    sounddevice.flag = "input overflow"
    words = ["--knob", "gain=0.1", "--input-device", "usb", "--input-channel", 2, "--block", 64, "--seconds", 0.5]
    out = run("live", model, *words)
    result = json.loads(out.out)
    expected = [
        "knob 'gain' is 3: expected a value in 0..1",
        "knob 'tone' is unknown: expected one of gain",
        "what: expected NAME=NUMBER, e.g. gain=0.5",
        "gain=0.3: gain is set twice: keep one of them",
    ]
    assert out.err.splitlines() == [f"error: {line}" for line in expected]
    assert result["seconds"] >= 0.5 and result["xruns"] == result["seconds"] * RATE / 64
    assert result["input_peak_dbfs"] == -6.0 and result["output_peak_dbfs"] is not None
    assert result["knobs"] == {"gain": 0.7} and result["latency_ms"] == 3.0 and result["failed_blocks"] == 0
    assert (result["input_device"], result["output_device"]) == ("USB Audio", "Built-in")
    assert result["load"] > 0 and result["slowest_block"] >= result["load"]
    options = sounddevice.streams[0].options
    assert options["device"] == (1, 0) and options["blocksize"] == 64 and options["samplerate"] == RATE
    assert np.concatenate(sounddevice.played).any()


def test_ctrl_c_ends_it_with_the_summary(run, model, sounddevice, monkeypatch):
    def interrupt(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("wavedil.audio.effects.play.parse_knobs", interrupt)
    monkeypatch.setattr(sys, "stdin", Typing(sounddevice, "gain=0.5"))
    result = json.loads(run("live", model, "--knob", "gain=0.1").out)
    assert result["knobs"] == {"gain": 0.1} and not sounddevice.streams[0].active


def test_devices_are_listed_without_a_model(run, refused, sounddevice):
    assert "USB Audio" in run("live", "--list-devices").out
    assert "MODEL is missing" in refused("live", "--block", 64)


def test_quality_picks_a_network(run, refused, sounddevice, tmp_path):
    save(NAM([LayerArray(1, 2, 1, "1,2")], sample_rate=RATE), tmp_path / "small")
    assert "quality is 0.5: a NAM like this has only one" in refused("live", tmp_path / "small", "--quality", 0.5)
    assert json.loads(run("live", tmp_path / "small", "--seconds", 0).out)["knobs"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input-device", "usb1"], "--input-device is 'usb1': expected a number (wavedil live --list"),
        (["--output-device", "7"], "--output-device is '7': expected a number"),
        (["--input-channel", "3"], "--input-channel is 3: expected at most 2, those of Built-in"),
        (["--input-channel", "0"], "--input-channel is 0: expected a positive integer up to 1024"),
        (["--block", "8"], "block is 8: expected an integer from 16 to 8192"),
        (["--block", "10000"], "block is 10000: expected an integer from 16 to 8192"),
        (["--seconds", "nan"], "seconds is nan: expected a number from 0"),
        (["--knob", "gain=2"], "knob 'gain' is 2: expected a value in 0..1"),
        (["--knob", "gain"], "--knob gain: expected NAME=NUMBER"),
        (["--knob", "gain=0", "--knob", "gain=1"], "--knob gain=1: gain is set twice"),
        (["--quality", "0.5"], "quality is 0.5: an Effect like this has only one"),
    ],
)
def test_bad_options_are_refused(refused, model, sounddevice, words, message):
    knobs = [] if "--knob" in words else ["--knob", "gain=0.1"]
    assert message in refused("live", model, *knobs, *words)
    assert not sounddevice.streams


def test_devices_of_another_rate_and_devices_that_stop_are_refused(refused, model, sounddevice):
    sounddevice.rates = (48000,)
    message = refused("live", model, "--knob", "gain=0")
    assert "input Built-in (default 44100 Hz)" in message and "at the model's 8000 Hz: Error opening" in message
    assert "set the devices to 8000 Hz" in message
    sounddevice.rates, sounddevice.blocks = (8000,), 3
    sounddevice.start.set()
    assert "the devices stopped after 0.0 s" in refused("live", model, "--knob", "gain=0")
    sounddevice.blocks = None
    assert "devices stopped: Error starting stream: Device" in refused("live", model, "--knob", "gain=0")


def test_without_devices_portaudio_or_sounddevice_there_is_one_line(refused, model, sounddevice, monkeypatch, tmp_path):
    words = ["live", model, "--knob", "gain=0"]
    sounddevice.devices = []
    assert refused(*words).startswith("error: no audio device found")
    monkeypatch.delitem(sys.modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "cannot load PortAudio (PortAudio library not found): install PortAudio, e.g. apt" in refused(*words)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert refused(*words) == f"error: sounddevice is not installed: {install_extra('live')}\n"
