"""Applying effects: live blocks, files in constant memory, and the ESR."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wavedil.audio import Effect, LiveEffect, load, process_file
from wavedil.audio.data import audio_files
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.audio.data.recordings import Segment
from wavedil.audio.data.streams import read_blocks, written_blocks
from wavedil.audio.effects import live, process
from wavedil.audio.effects.engines import CompiledEngine, TorchEngine
from wavedil.audio.effects.evaluation import evaluate_pairs
from wavedil.audio.models.nam import NAM, LayerArray
from wavedil.errors import WavedilError

RATE = 8000


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    slow = {"time_constants": [0.02], "charges": [50.0]}
    return Effect(8, 8, "1..8", knobs={"gain": [0, 1]}, sample_rate=RATE, **slow).eval()


def noise(*shape):
    return 0.1 * np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def settled(model, sound, gain):
    """The output for each channel in one pass, after ``model.settle`` seconds of silence."""
    quiet = np.zeros((len(sound), int(np.ceil(model.settle * RATE))), np.float32)
    x = torch.from_numpy(np.concatenate([quiet, sound], axis=1)).unsqueeze(1)
    with torch.inference_mode():
        y = model(x, torch.full((len(sound), 1), gain))
    return y[:, 0, quiet.shape[1] :].numpy()


def test_blocks_equal_one_pass_after_silence(model):
    sound = noise(2, 700)
    effect = LiveEffect(model, {"gain": 0.3}, channels=2)
    parts = [effect.process(sound[:, start:stop]) for start, stop in ((0, 1), (1, 65), (65, 65), (65, 700))]
    np.testing.assert_allclose(np.concatenate(parts, 1), settled(model, sound, 0.3), atol=2e-6)
    assert effect.blocks == 4 and effect.samples == 700 and effect.seconds_per_block > 0


def test_the_first_block_has_no_start_up_transient(model):
    effect = LiveEffect(model, {"gain": 0.3})
    first = effect.process(np.zeros(500, np.float32))
    assert np.abs(first - first[-1]).max() < 1e-3
    with torch.inference_mode():
        switched_on = model(torch.zeros(1, 1, 500), torch.tensor([[0.3]]))
    assert (switched_on - first[-1]).abs().max() > 0.05


def test_knobs_change_between_blocks(model):
    sound = noise(400)
    effect = LiveEffect(model, {"gain": 0.0})
    first = effect.process(sound[:200])
    effect.knobs = {"gain": 1.0}
    second = effect.process(sound[200:])
    constant = LiveEffect(model, {"gain": 0.0})
    np.testing.assert_array_equal(first, constant.process(sound[:200]))
    assert np.abs(second - constant.process(sound[200:])).max() > 1e-3
    with pytest.raises(WavedilError, match="knob 'gain' is 2"):
        effect.knobs = {"gain": 2}
    assert effect.knobs == {"gain": 1.0}
    with pytest.raises(WavedilError, match=r"block has shape \(2, 5\): expected \(1, time\)"):
        effect.process(np.zeros((2, 5)))
    with pytest.raises(WavedilError, match="NaN"):
        effect.process(np.full(5, np.nan))


@pytest.fixture(params=["compiled", "torch"])
def make_live(request, monkeypatch):
    """LiveEffect on one of the engines."""
    if request.param == "torch":
        monkeypatch.setattr(live, "make_engine", TorchEngine)
    return LiveEffect


def test_blocks_may_be_any_view(model, make_live):
    sound = noise(2, 300)
    frozen = sound.copy()
    frozen.flags.writeable = False
    for view in (sound[:, ::-1], sound[:, ::3], np.asfortranarray(sound), frozen, sound.astype(np.float64)):
        before = view.copy()
        outputs = [make_live(model, {"gain": 0.5}, 2).process(x) for x in (view, np.array(view, np.float32, order="C"))]
        np.testing.assert_array_equal(*outputs)
        np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_state_is_saved_and_restored(tmp_path, model, make_live, channels):
    sound = noise(channels, 900)
    effect = make_live(model, {"gain": 0.1}, channels)
    effect.process(sound[:, :300])
    effect.knobs = {"gain": 0.9}
    effect.process(sound[:, 300:350])  # the knob is still moving
    save_file(effect.state(), tmp_path / "state.safetensors")
    expected = effect.process(sound[:, 350:])
    state, again = load_file(tmp_path / "state.safetensors"), make_live(model, {"gain": 0.5}, channels)
    for _ in range(2):
        again.restore(state)
        assert again.knobs == {"gain": pytest.approx(0.9)}
        np.testing.assert_array_equal(again.process(sound[:, 350:]), expected)


def test_a_state_before_the_first_block(make_live):
    """Also of a model without knobs, whose start is computed at its first block."""
    torch.manual_seed(0)
    nam = NAM([LayerArray(1, 2, 1, "1,2")], sample_rate=RATE).eval()
    for network, knobs in ((nam, {}), (Effect(2, 2, "1,2", knobs={"a": [0, 0.1]}, settle=0.0), {"a": 0.1})):
        effect, sound = make_live(network, knobs), noise(100)
        state = effect.state()
        expected = effect.process(sound)
        effect.restore(state)
        np.testing.assert_array_equal(effect.process(sound), expected)


def test_states_of_others_and_damaged_ones_are_refused(model, make_live):
    effect = make_live(model, {"gain": 0.1})
    effect.process(noise(300))
    state, expected = effect.state(), None
    engine = TorchEngine if "at" in state else CompiledEngine
    other = engine(model, 1)
    other.set_knobs(torch.tensor([0.5]))
    other.process(noise(1, 10))
    count = "at" if "at" in state else "ramp.left"
    slope = next(key for key in state if key.endswith("slope"))
    for bad, message in (
        (other.state(), r"expected \[.*of another model, number of channels or engine"),
        (make_live(model, {"gain": 0.1}, 2).state() | {"clock": 0}, "of another model, number of channels or engine"),
        ({}, r"state has \[\]: expected"),
        (state | {count: state[count] * 0 - 1}, f"state has {count} out of range"),
        (state | {count: state[count] * 0 + 10**6}, f"state has {count} out of range"),
        (state | {count: None}, f"{count} of state is None"),
        (state | {slope: state[slope] * np.nan}, "slope out of range"),
        (None, "state is None: expected a dictionary"),
    ):
        with pytest.raises(WavedilError, match=message):
            effect.restore(bad)
    expected = effect.process(noise(100))
    effect.restore(state)
    np.testing.assert_array_equal(effect.process(noise(100)), expected)


@pytest.mark.parametrize("sound", ["sine", "plucked strings"])
def test_turned_knobs_do_not_click(sound):
    """The largest second difference while a knob jumps between its ends, beside that with the knob at rest.

    A sine of 110 Hz has almost none, so every click shows. Without smoothing it would be 137 times as large.
    """
    pedal, turned = load("overdrive"), 2048
    times = np.arange(16000, dtype=np.float32) / pedal.sample_rate
    x = 0.3 * np.sin(2 * np.pi * 110 * times)
    if sound != "sine":
        x = render_melody(compose(1, np.random.default_rng(0)), pedal.sample_rate).astype(np.float32)[: len(times)]

    def process_with(*settings):
        effect = LiveEffect(pedal, {"drive": settings[0]})
        parts = []
        for index, start in enumerate(range(0, len(x), turned)):
            effect.knobs = {"drive": settings[index % len(settings)]}
            parts.append(effect.process(x[start : start + turned]))
        return np.concatenate(parts)

    def roughness(y):
        return np.abs(np.diff(y[1000:], 2)).max()

    resting = [process_with(drive) for drive in (0.0, 0.5, 1.0)]
    assert roughness(process_with(0.0, 1.0)) < 1.1 * max(map(roughness, resting))
    jumping = np.where(np.arange(len(x)) // turned % 2, resting[2], resting[0])
    assert sound != "sine" or roughness(jumping) > 100 * max(map(roughness, resting))


@pytest.mark.parametrize("name", ["in.wav", "in.flac"])
def test_a_processed_file_equals_one_pass(tmp_path, model, monkeypatch, name):
    monkeypatch.setattr(process, "CHUNK", 301)
    audio_files.write(tmp_path / name, noise(2, 1000), RATE)
    seen = []
    result = process_file(
        model, tmp_path / name, tmp_path / "out.wav", {"gain": 0.6}, subtype="FLOAT", progress=lambda *a: seen.append(a)
    )
    sound, rate = audio_files.read(tmp_path / "out.wav", mono=False)
    np.testing.assert_allclose(sound, settled(model, audio_files.read(tmp_path / name, mono=False)[0], 0.6), atol=2e-6)
    assert rate == RATE and seen == [(301, 1000), (602, 1000), (903, 1000), (1000, 1000)]
    assert result["channels"] == 2 and result["seconds"] == 0.125 and result["clipped"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.wav"])


@pytest.mark.parametrize(
    ("source", "subtype", "target", "expected"),
    [
        ("wav", "PCM_24", "wav", "PCM_24"),
        ("wav", "ULAW", "wav", "ULAW"),
        ("wav", "FLOAT", "wav", "FLOAT"),
        ("wav", "FLOAT", "flac", "PCM_24"),
        ("wav", "PCM_32", "flac", "PCM_24"),
        ("flac", "PCM_S8", "flac", "PCM_S8"),
        ("flac", "PCM_S8", "wav", "PCM_16"),
        ("ogg", "VORBIS", "ogg", "VORBIS"),
        ("ogg", "VORBIS", "wav", "PCM_16"),
        ("wav", "PCM_24", "ogg", "VORBIS"),
        ("wav", "PCM_24", "opus", "OPUS"),
    ],
)
def test_the_coding_and_the_tags_are_kept(tmp_path, model, source, subtype, target, expected):
    tags = {"title": "Zoë's take", "artist": "me", "album": "x", "date": "2024"}
    source, target = tmp_path / f"in.{source}", tmp_path / f"out.{target}"
    with written_blocks(source, RATE, 2, subtype, tags) as append:
        append(noise(2, 200))
    process_file(model, source, target, {"gain": 0.5})
    info = audio_files.info(target)
    assert (info.subtype, info.tags) == (expected, tags)
    process_file(model, source, tmp_path / "other.wav", {"gain": 0.5}, subtype="DOUBLE")
    assert audio_files.info(tmp_path / "other.wav").subtype == "DOUBLE"


def test_tags_that_a_format_cannot_store_are_left_out(tmp_path):
    for name, kept in (("a.au", {}), ("a.aiff", {"artist": "me"}), ("a.mp3", {"artist": "me"})):
        with written_blocks(tmp_path / name, RATE, 1, tags={"title": "Zoë", "artist": "me"}) as append:
            append(noise(1, 2000))
        tags = audio_files.info(tmp_path / name).tags
        assert {tag: tags[tag] for tag in tags.keys() & {"title", "artist"} if tags[tag]} == kept


def test_memory_does_not_grow_with_the_file(tmp_path, model, monkeypatch):
    lengths = []
    step = LiveEffect.process
    monkeypatch.setattr(LiveEffect, "process", lambda self, x: lengths.append(x.shape[1]) or step(self, x))
    monkeypatch.setattr(process, "CHUNK", 128)
    audio_files.write(tmp_path / "in.wav", noise(1, 5000), RATE)
    process_file(model, tmp_path / "in.wav", tmp_path / "out.wav", {"gain": 0.6})
    assert max(lengths) == 128 and len(lengths) >= 40


def test_another_rate_is_refused_or_resampled(tmp_path, model):
    sound = np.sin(np.arange(4410) / 30)[None].astype(np.float32) * 0.2
    audio_files.write(tmp_path / "in.wav", sound, 11025, "FLOAT")
    with pytest.raises(WavedilError, match="has 11025 Hz and the model 8000 Hz: set resample"):
        process_file(model, tmp_path / "in.wav", tmp_path / "out.wav", {"gain": 0.6})
    assert not (tmp_path / "out.wav").exists()
    process_file(model, tmp_path / "in.wav", tmp_path / "out.wav", {"gain": 0.6}, resample=True, subtype="FLOAT")
    resampled, _ = audio_files.read(tmp_path / "in.wav", sample_rate=RATE)
    np.testing.assert_allclose(audio_files.read(tmp_path / "out.wav")[0], settled(model, resampled, 0.6), atol=2e-5)


def test_an_interrupt_leaves_no_file(tmp_path, model, monkeypatch):
    audio_files.write(tmp_path / "in.wav", noise(1, 1000), RATE)
    calls = []

    def broken(self, block):
        calls.append(block)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return block

    monkeypatch.setattr(process, "CHUNK", 400)
    monkeypatch.setattr(LiveEffect, "process", broken)
    with pytest.raises(KeyboardInterrupt):
        process_file(model, tmp_path / "in.wav", tmp_path / "out.wav", {"gain": 0.6})
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [None, 5000, 12000])
def test_blocks_of_a_file_equal_a_single_read(tmp_path, suffix, rate):
    path = audio_files.write(tmp_path / f"in.{suffix}", noise(2, 9001), RATE)
    expected, _ = audio_files.read(path, sample_rate=rate, mono=False)
    got = np.concatenate(list(read_blocks(path, 700, rate)), axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_samples_beyond_the_range_of_the_coding_are_clipped_and_counted(tmp_path):
    block = np.array([[0.5, 1.5, -2.0]], np.float32)
    with written_blocks(tmp_path / "a.wav", RATE, 1) as append:
        assert append(block) == 2
    assert np.abs(audio_files.read(tmp_path / "a.wav")[0]).max() <= 1
    with written_blocks(tmp_path / "b.wav", RATE, 1, "FLOAT") as append:
        assert append(block) == 0
    np.testing.assert_array_equal(audio_files.read(tmp_path / "b.wav")[0], block)
    with pytest.raises(WavedilError, match="has no subtype"), written_blocks(tmp_path / "c.wav", RATE, 1, "LOUD"):
        pass
    with pytest.raises(WavedilError, match="NaN"), written_blocks(tmp_path / "c.wav", RATE, 1) as append:
        append(block * np.nan)
    assert not (tmp_path / "c.wav").exists()


def test_esr_equals_its_definition(model, monkeypatch):
    monkeypatch.setattr(process, "CHUNK", 100)
    x = noise(3, 400)
    with torch.inference_mode():
        y = model(torch.from_numpy(x).unsqueeze(1), torch.tensor([[0.0], [0.0], [1.0]]))[:, 0].numpy()
    errors = [0.01, 0.02, 0.04]
    segments = [
        Segment(str(i), x[i], y[i] + np.float32(e), {"gain": g}, skip)
        for i, (e, g, skip) in enumerate(zip(errors, (0.0, 0.0, 1.0), (100, 0, 250), strict=True))
    ]
    result = evaluate_pairs(model, segments)
    energy = [float(np.square(s.target[s.skip :], dtype=np.float64).sum()) for s in segments]
    errors_energy = [e * e * n for e, n in zip(errors, (300, 400, 150), strict=True)]
    assert result.esr_percent == pytest.approx(100 * sum(errors_energy) / sum(energy), rel=1e-3)
    assert result.settings["gain 0"] == pytest.approx(100 * sum(errors_energy[:2]) / sum(energy[:2]), rel=1e-3)
    assert result.settings["gain 1"] == pytest.approx(100 * errors_energy[2] / energy[2], rel=1e-3)
    assert (result.count, result.segments) == (850, 3) and "0 or 100 or 250 samples" in result.definition
