"""Features and speakers: alignment, training and generation, guidance, and refused arguments."""

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from wavedil.audio import (
    Features,
    LogMel,
    NearestUpsampling,
    TransposedUpsampling,
    WaveNet,
    generate,
    load,
    save,
    stream,
)
from wavedil.audio.data.audio_files import write
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import FeatureExcerpt, RandomCrops
from wavedil.audio.distributions import MixtureOfGaussians, Sampling
from wavedil.audio.evaluation import evaluate
from wavedil.audio.generation.engines.cpu import NumbaSession
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.core.stream import select
from wavedil.errors import WavedilError
from wavedil.train import AudioModule

MEL = {"sample_rate": 8000, "n_mels": 5, "n_fft": 32, "hop_length": 12}


def nearest(**options):
    return NearestUpsampling(LogMel(**MEL), **options)


def transposed(**options):
    return TransposedUpsampling(LogMel(**MEL), [3, 4], **options)


def make(condition=nearest, speakers=("ann", "bob", "cy"), **options) -> WaveNet:
    torch.manual_seed(0)
    condition = condition() if condition else None
    model = WaveNet(8, 12, "1..8", sample_rate=8000, condition=condition, speakers=speakers, **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1 if "taps" in name else 2)
            if "taps" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def sounds(batch=2, time=101):
    return 0.3 * torch.randn(batch, time, generator=torch.Generator().manual_seed(1))


# -- training and generation -------------------------------------------------------------------------------------------

VARIANTS = [
    {},
    {"condition": transposed, "kernel_size": 3, "gate_order": "sigmoid_first"},
    {"speakers": (), "distribution": "logistics", "components": 2, "input": "scalar"},
    {"condition": None, "weight_norm": True},
    {"distribution": "gaussians", "quantizer": "linear", "num_codes": 65536, "input": "scalar"},
]


def inputs(model, num=2, time=101):
    condition = None if model.conditioner.upsampling is None else model.features(sounds(num, time))
    return {"condition": condition, "speaker": ["cy", "ann", "bob"][:num] if model.speakers else None}


def code_errors(model, sound, condition, u):
    """Per sample, by how many codes it differs from the code that the float64 model draws after the same past."""
    codes = model.encode(sound[:, 0])
    with torch.no_grad():
        exact = model.double()(codes, condition.double())
    model.float()
    steps = range(codes.shape[1])
    drawn = torch.stack([model.distribution.sample(exact[..., t], u[:, t], Sampling()) for t in steps], -1)
    return (drawn - codes).abs()


@pytest.mark.parametrize("options", VARIANTS)
def test_forward_steps_and_engines_agree(options):
    model = make(**options)
    conditioning = model.conditioning(**inputs(model), num=2)
    assert conditioning.samples == (None if options.get("condition", 1) is None else 108)
    sound = generate(model, 101, num=2, seed=3, engine="torch", **inputs(model))
    codes, condition = model.encode(sound[:, 0]), conditioning.condition(0, 101)
    with torch.no_grad():
        whole, state, parts, start = model(codes, condition), None, [], 0
        for length in (1, 50, 0, 50):
            stop = start + length
            made, state = model.step(codes[:, start:stop], state, conditioning.condition(start, stop))
            parts.append(made)
            start = stop
        torch.testing.assert_close(torch.cat(parts, -1), whole, rtol=1e-4, atol=1e-4)
    u = Uniforms(3, 2).draw(101)
    auto = generate(model, 101, num=2, seed=3, **inputs(model))
    for made in (sound, auto):
        errors = code_errors(model, made, condition, u)
        if model.num_codes > 256:  # float32 rounding can move a draw to the neighboring code
            assert errors.max() <= 1 and errors.count_nonzero() <= 10
        else:
            assert not errors.any()
    if model.num_codes <= 256:
        assert torch.equal(auto, sound)
    chunks = stream(model, num=2, seed=3, chunk=17, **inputs(model))
    assert torch.equal(torch.cat([next(chunks) for _ in range(5)], -1), auto[..., :85])


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_a_saved_stream_continues_within_its_condition(tmp_path, engine):
    """From a state file, with a reloaded model, in the middle of a frame of 12 samples."""
    model = make()
    source = stream(model, num=2, seed=3, chunk=17, engine=engine, **inputs(model))
    next(source)
    save_file(source.state(), tmp_path / "state.safetensors")
    rest = [next(source), next(source)]
    again, state = load(save(model, tmp_path / "model")), load_file(tmp_path / "state.safetensors")
    source = stream(again, state=state, chunk=17, engine=engine, **inputs(again))
    assert source.position == 17
    assert torch.equal(torch.cat([next(source), next(source)], -1), torch.cat(rest, -1))
    assert sum(part.shape[2] for part in source) == 108 - 3 * 17  # until the condition ends
    branch = stream(again, state=select(state, [1, 1, 0]), chunk=17, **inputs(again, 1) | {"speaker": "ann"})
    assert branch.position == 17 and next(branch).shape == (3, 1, 17)
    # Without its position: a condition that begins with the next sample.
    fresh = stream(again, state={k: v for k, v in state.items() if k != "condition.position"}, **inputs(again))
    assert fresh.position == 0
    with pytest.raises(WavedilError, match="condition.position .*the same for all streams"):
        stream(again, state=state | {"condition.position": torch.tensor([17, 18])}, **inputs(again))


@pytest.mark.parametrize("name", ["conditioner.speaker_embedding.weight", "conditioner.upsampling.taps"])
def test_nan_weights_of_the_conditioner_are_refused(name):
    model = make()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = math.nan
    with pytest.raises(WavedilError, match="weights hold NaN"):
        generate(model, 10, num=2, **inputs(model))


def test_training_drops_the_condition_of_some_crops():
    model = make(None)
    batch = {"codes": torch.zeros(400, 24, dtype=torch.int64), "speaker": torch.zeros(400, dtype=torch.int64)}
    dropped = {}
    for share in (0.0, 0.3, 1.0):
        module = AudioModule(model, drop_condition=share)
        module.trainer = SimpleNamespace(global_step=7, world_size=1, global_rank=0)
        condition = module.condition(batch)
        dropped_crops = (condition == 0).flatten(1).all(1)
        assert torch.equal(dropped_crops, (condition == 0).flatten(1).any(1))  # a crop is dropped as a whole
        dropped[share] = dropped_crops.float().mean().item()
    assert dropped[0.0] == 0 and dropped[0.3] == pytest.approx(0.3, abs=0.08) and dropped[1.0] == 1


def test_numba_equals_torch_with_features_and_speakers():
    model = make()
    for num, time in ((1, 37), (3, 101)):
        expected = generate(model, time, num=num, engine="torch", **inputs(model, num, time))
        assert torch.equal(generate(model, time, num=num, engine="numba", **inputs(model, num, time)), expected)


def test_training_and_generation_have_the_same_condition():
    model = make(transposed)
    features, speaker = model.features(sounds()), torch.tensor([2, 0])
    with torch.no_grad():
        trained = model.conditioner(model.conditioner.upsampling.pad(features), speaker, 101)
    torch.testing.assert_close(trained, model.conditioning(features, ["cy", "ann"], 2).condition(0, 101))


def test_a_prediction_depends_on_the_frame_of_its_sample():
    """Frame 3 changes the predictions from sample ``3 * hop_length`` on, and none before."""
    torch.manual_seed(0)
    net = NearestUpsampling(Features(2, 12), frame_kernel_size=1)
    model = WaveNet(8, 12, "1..4", sample_rate=8000, condition=net).eval()
    with torch.no_grad():  # nearest-neighbor upsampling without smoothing
        net.taps.zero_()
        net.taps[12] = 25
    codes = torch.randint(256, (1, 96))
    features = torch.randn(1, 2, 8)
    changed = features.clone()
    changed[..., 3] += 1
    with torch.no_grad():
        before, after = (model(codes, model.conditioning(f).condition(0, 96)) for f in (features, changed))
        moved = ((before - after).abs().sum(1) > 0)[0]
        # The first layer adds its condition after its convolution, so its taps do not extend the effect.
        assert moved.nonzero().flatten().tolist() == list(range(36, 48 + model.receptive_field - 2))
        shifted = model.conditioning(features).upsampled_features(1, 97 - 12)
        assert not torch.equal(shifted[..., :80], model.conditioning(features).upsampled_features(0, 80))
        for t in (0, 11, 12, 35, 36, 95):
            expected = net.conv(features)[0, :, t // 12]
            torch.testing.assert_close(model.conditioning(features).upsampled_features(t, t + 1)[0, :, 0], expected)


def test_lengths_and_priming():
    model = make()
    one = inputs(model, 1)
    assert generate(model, **one).shape == (1, 1, 108)  # as long as the condition
    lengths = generate(model, [50, 101, 20], seed=2, **inputs(model, 3))
    whole = generate(model, 101, num=3, seed=2, **inputs(model, 3))
    for index, (clip, length) in enumerate(zip(lengths, (50, 101, 20), strict=True)):
        assert torch.equal(clip, whole[index, :, :length])
    prime = whole[:1, :, :30]
    with torch.no_grad():
        conditioning = model.conditioning(**one)
        _, state = model.step(model.encode(prime[:, 0]), None, conditioning.condition(0, 30))
    session = TorchSession(model.plan(), state, speaker=conditioning.speaker)
    expected = session.sample(Uniforms(9, 1).draw(40), conditioning.upsampled_features(30, 70))
    for engine in ("torch", "numba"):
        primed = generate(model, 40, seed=9, prime=prime, engine=engine, **one)
        assert torch.equal(model.encode(primed[:, 0]), expected)
    assert generate(model, prime=prime, **one).shape == (1, 1, 78)


def test_a_model_folder_stores_the_conditioner(tmp_path):
    for number, condition in enumerate((nearest, transposed, lambda: NearestUpsampling(Features(3, 7), 4))):
        model = make(condition)
        again = load(save(model, tmp_path / str(number)))
        assert again.config == model.config and again.speakers == ("ann", "bob", "cy")
        features = torch.randn(1, model.conditioner.upsampling.features.channels, 4)
        ours, theirs = (generate(m, 25, condition=features, speaker="bob") for m in (model, again))
        assert torch.equal(ours, theirs)


# -- guidance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", "numba"])
@pytest.mark.parametrize("distribution", ["categorical", "gaussians"])
def test_guidance_extrapolates_from_the_unconditional_parameters(distribution, engine):
    model = make(distribution=distribution)
    options = {"num": 2, "seed": 4, **inputs(model)}
    plain = generate(model, 60, engine="torch", **options)
    sound = generate(model, 60, guidance=1.7, engine=engine, **options)
    assert not torch.equal(sound, plain)
    codes, u = model.encode(sound[:, 0]), Uniforms(4, 2).draw(60)
    condition = model.conditioning(**inputs(model), num=2).condition(0, 60).double()
    model.double()
    with torch.no_grad():
        conditional, unconditional = model(codes, condition), model(codes, torch.zeros_like(condition))
    mixed = 1.7 * conditional - 0.7 * unconditional
    for t in range(60):
        assert torch.equal(model.distribution.sample(mixed[..., t], u[:, t], Sampling()), codes[:, t])


@pytest.mark.parametrize(
    ("engine", "kind", "threads"), [("torch", TorchSession, 1), ("numba", NumbaSession, 1), ("numba", NumbaSession, 2)]
)
def test_guided_streams_continue_and_end_independently(engine, kind, threads):
    model = make()
    options = {"engine": engine, "threads": threads, "seed": 4, "guidance": 2.0, **inputs(model, 3)}
    whole = generate(model, 60, num=3, **options)
    for index, clip in enumerate(generate(model, [60, 25, 40], **options)):
        assert torch.equal(clip, whole[index, :, : clip.shape[1]])
    conditioning, u = model.conditioning(**inputs(model, 3), num=3), Uniforms(4, 3).draw(60)
    session = kind(model.plan(), model.start(3), speaker=conditioning.speaker, guidance=2.0, threads=threads)
    session.sample(u[:, :31], conditioning.upsampled_features(0, 31))
    state, own = select(session.state(), [2, 0]), conditioning.select([2, 0])
    session = kind(model.plan(), state, speaker=own.speaker, guidance=2.0, threads=threads)
    rest = session.sample(u[[2, 0], 31:], own.upsampled_features(31, 60))
    scores = session.score(rest, own.upsampled_features(31, 60))
    assert scores.shape == (2, model.distribution.num_parameters, 29) and scores.isfinite().all()
    assert torch.equal(rest, model.encode(whole[[2, 0], 0, 31:]))
    # With a speaker only there is no end, and the state is all that a continuation needs.
    model = make(None)
    source = stream(model, num=2, seed=1, guidance=2.0, speaker="bob", chunk=20)
    first, state, second = next(source), source.state(), next(source)
    assert torch.equal(next(stream(model, state=state, guidance=2.0, speaker="bob", chunk=20)), second)
    assert not torch.equal(first, second)


def test_priming_a_guided_stream_primes_its_unconditional_state_too():
    model, condition = make(), inputs(make(), 1)
    sound = generate(model, 60, seed=4, guidance=2.0, **condition)
    plan, start, conditioning = model.plan(), model.start(1), model.conditioning(**condition)
    session = TorchSession(plan, start, speaker=conditioning.speaker, guidance=2.0)
    session.score(model.encode(sound[:, 0, :25]), conditioning.upsampled_features(0, 25))
    rest = session.sample(Uniforms(7, 1).draw(30), conditioning.upsampled_features(25, 55))
    primed = generate(model, 30, seed=7, guidance=2.0, prime=sound[..., :25], **condition)
    assert torch.equal(model.encode(primed[:, 0]), rest)


def test_guidance_of_gaussians_of_equal_scale_is_their_product():
    scale = math.log(0.1)
    conditional, unconditional, guidance = torch.tensor([0.3, scale]), torch.tensor([0.1, scale]), 1.5
    mean, log_scale = (unconditional + guidance * (conditional - unconditional)).tolist()
    x = torch.linspace(-1, 1, 5)
    product = guidance * -((x - 0.3) ** 2) / 0.02 - (guidance - 1) * -((x - 0.1) ** 2) / 0.02
    ours = -((x - mean) ** 2) / (2 * math.exp(log_scale) ** 2)
    torch.testing.assert_close(product - product[0], ours - ours[0])
    assert MixtureOfGaussians.deviation == 1


# -- data --------------------------------------------------------------------------------------------------------------


def test_features_of_a_crop_equal_those_of_its_file(tmp_path):
    for index, length in enumerate((700, 95, 1001)):
        write(tmp_path / f"{index}.wav", sounds(1, length) / 2, 8000)
    corpus = Corpus(sorted(tmp_path.glob("*.wav")), 8000)
    for net in (nearest(), transposed()):
        crops = RandomCrops(
            corpus, 130, context=40, excerpt=FeatureExcerpt(net.features, net.reach), speakers=[0, 1, 2]
        )
        seen = set()
        for index in range(60):
            item, (file, start) = crops[index], crops.place(index)
            assert start % 12 == 0 and item["mask"].any() and item["speaker"] == file
            whole = torch.from_numpy(corpus.sound(file)).unsqueeze(0)
            with torch.no_grad():
                batch = {key: value.unsqueeze(0) for key, value in item.items()}
                ours = net(net.crop_features(batch))[..., :130]
                expected = net(net.pad(net.features(whole)))[..., start : start + 130]
            stop = min(130, whole.shape[1] - start)
            torch.testing.assert_close(ours[..., :stop], expected[..., :stop], rtol=1e-3, atol=1e-3)
            seen.add((file, start == 0, start + 130 >= whole.shape[1]))
        assert len(seen) >= 6
    with pytest.raises(WavedilError, match="by a hop of 12"):
        RandomCrops(corpus, 130, context=120, excerpt=FeatureExcerpt(nearest().features, nearest().reach))


def test_evaluation_uses_the_condition():
    model = make()
    clips = list(sounds(2, 101))
    result = evaluate(model, clips, speakers=["bob", "cy"])
    codes = model.encode(torch.stack(clips))
    condition = model.conditioning(model.features(torch.stack(clips)), ["bob", "cy"], 2).condition(0, 101)
    with torch.no_grad():
        nats = model.loss(codes, condition=condition).item()
    assert result.bits_per_sample == pytest.approx(nats / math.log(2), rel=1e-5)
    assert "all earlier codes of the file, the features of its sound, its speaker)" in result.definition


# -- refused arguments -------------------------------------------------------------------------------------------------

NAN = torch.full((1, 5, 9), math.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, f: generate(m, 20, condition=f, speaker="dan"), "'dan' is unknown: expected one of ann, bob, cy"),
        (lambda m, f: generate(m, 20, condition=f, speaker=3), "3 is unknown"),
        (lambda m, f: generate(m, 20, condition=f, speaker=["ann", "bob"]), "2 names for 1 streams"),
        (lambda m, f: generate(m, 20, condition=f), "needs a speaker: one of ann, bob, cy"),
        (lambda m, f: generate(m, 20, speaker="ann"), "needs a condition"),
        (lambda m, f: generate(m, 20, condition=NAN, speaker="ann"), "45 values that are NaN"),
        (lambda m, f: generate(m, 20, condition=f[:, :4], speaker="ann"), r"expected \(1 or 1, 5, frames\)"),
        (
            lambda m, f: generate(m, 130, condition=f, speaker="ann"),
            "9 frames at a hop of 12, which last 108 samples, but 130 samples are needed: give 11 frames",
        ),
        (
            lambda m, f: generate(m, 9, condition=f, speaker="ann", prime=torch.zeros(1, 1, 200)),
            "200 samples are needed",
        ),
        (lambda m, f: generate(m, 20, condition=f, speaker="ann", guidance=-1.0), "guidance is -1"),
        (lambda m, f: generate(m, 20, condition=f, speaker="ann", guidance=2.0, engine="graphs"), "use engine='torch'"),
        (lambda m, f: generate(make(None, ()), 20, guidance=2.0), "has no conditioning"),
        (lambda m, f: generate(make(None, ()), 20, speaker="ann"), "takes no speaker"),
        (lambda m, f: m(torch.zeros(1, 20, dtype=torch.int64)), r"expected \(1, 21, 20\)"),
        (lambda m, f: make(lambda: LogMel(**MEL)), "condition is a LogMel: expected a network that brings features"),
        (
            lambda m, f: make(lambda: NearestUpsampling(LogMel(16000))),
            "condition has sample_rate=16000, the model 8000",
        ),
        (lambda m, f: make(speakers=("a", "a")), "a name occurs twice"),
        (lambda m, f: TransposedUpsampling(LogMel(**MEL), [3, 5]), "product is 15: expected hop_length, 12"),
        (lambda m, f: NearestUpsampling(LogMel(**MEL), frame_kernel_size=2), "expected an odd number"),
        (lambda m, f: LogMel(8000, fmax=5000), "fmax <= 4000"),
        (lambda m, f: LogMel(8000, n_fft=401), "n_fft is 401: expected an even number"),
        (lambda m, f: LogMel(8000, n_fft=100, hop_length=200), "n_fft is 100: expected at least hop_length, 200"),
        (lambda m, f: Features(3, 7)(torch.zeros(1, 20)), "not computed from sound"),
    ],
)
def test_errors_say_what_to_do(call, message):
    model = make()
    with pytest.raises(WavedilError, match=message):
        call(model, model.features(sounds(1)))


def test_bands_that_are_computed_in_inference_mode_can_be_used_outside_it():
    with torch.inference_mode():
        bands = LogMel(**MEL).bands()
    assert not bands.is_inference()
