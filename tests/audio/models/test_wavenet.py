"""The WaveNet: forward, step, plan and generation compute the same model; sampling; refused arguments."""

import copy
import json
import math

import pytest
import torch

from wavedil.audio import WaveNet, generate, load, save, stream
from wavedil.audio.distributions import Categorical, MuLaw, Sampling
from wavedil.audio.evaluation import evaluate
from wavedil.audio.generation.engines import ENGINES
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.core import add_weight_norm, fold_weight_norm
from wavedil.errors import WavedilError

SMALL = {"channels": 8, "skip_channels": 12, "dilations": "1..8 x2", "sample_rate": 8000}
VARIANTS = [
    {},
    {"kernel_size": 3},
    {"kernel_size": 1},
    {"input_kernel_size": 3, "num_codes": 31},
    {"hidden_channels": 5, "head_channels": 7, "residual_scale": 0.5**0.5, "skip_scale": 0.5},
    {"gate_order": "sigmoid_first", "dilations": [5, 1, 3]},
    {"weight_norm": True, "kernel_size": 2},
    {"input": "scalar", "input_kernel_size": 3},
    {"distribution": "logistics", "components": 3, "num_codes": 31, "weight_norm": True, "input": "scalar"},
    {"distribution": "gaussians", "input": "scalar", "quantizer": "linear", "num_codes": 65536},
    {"distribution": "gaussians", "components": 2},
]


def make(**options) -> WaveNet:
    torch.manual_seed(0)
    model = WaveNet(**{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # peaked distributions, so that errors change the codes
            parameter.mul_(2)
    return model


def codes_of(model, batch=2, time=60):
    return torch.randint(model.num_codes, (batch, time), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", VARIANTS)
def test_generation_equals_the_teacher_forced_pass(options):
    model = make(**options)
    sound = generate(model, 70, num=3, seed=5)
    model.double()
    assert sound.shape == (3, 1, 70) and sound.dtype == torch.float32 and sound.abs().max() <= 1
    codes = model.encode(sound[:, 0])
    with torch.no_grad():
        logits = model(codes)
    uniforms = Uniforms(5, 3).draw(70)
    for t in range(70):
        assert torch.equal(model.distribution.sample(logits[..., t], uniforms[:, t], Sampling()), codes[:, t])


@pytest.mark.parametrize("options", VARIANTS)
def test_chunks_equal_one_pass(options):
    model = make(**options)
    codes = codes_of(model)
    with torch.no_grad():
        whole = model(codes)
        for lengths in ([60], [1] * 60, [0, 7, 0, 53]):
            state, parts = None, []
            for chunk in codes.split(lengths, 1):
                logits, state = model.step(chunk, state)
                parts.append(logits)
            torch.testing.assert_close(torch.cat(parts, -1), whole)


def test_a_prediction_depends_on_exactly_the_receptive_field():
    model = make(input_kernel_size=2)
    field = model.receptive_field
    assert field == 2 * 15 + 1 + 1
    codes = codes_of(model, 1)
    with torch.no_grad():
        before = model(codes)
        for t in (40, 59):
            changed = codes.clone()
            changed[:, t - field] = (changed[:, t - field] + 7) % model.num_codes
            moved = (model(changed) - before).abs().sum(1)[0] > 0
            assert moved[t - field + 1 : t + 1].all()  # the last prediction that depends on it is at t
            assert not moved[: t - field + 1].any() and not moved[t + 1 :].any()


def test_a_stream_depends_on_the_seed_and_its_index_only():
    model = make()
    five = generate(model, 50, num=5, seed=3)
    assert len({tuple(clip.tolist()) for clip in five[:, 0]}) == 5
    assert torch.equal(five[:2], generate(model, 50, num=2, seed=3))
    assert torch.equal(five[..., :20], generate(model, 20, num=5, seed=3))
    assert not torch.equal(five, generate(model, 50, num=5, seed=4))
    chunks = stream(model, num=5, seed=3, chunk=16)
    assert torch.equal(torch.cat([next(chunks) for _ in range(3)], -1), five[..., :48])


def test_streams_do_not_depend_on_the_batch_at_full_width():
    """In float32 the rounding of matrix products depends on the batch size, and would change codes."""
    torch.manual_seed(0)
    model = WaveNet(64, 128, "1..8", sample_rate=8000).eval()
    with torch.no_grad():
        model.head.out.weight.mul_(4)
    alone = generate(model, 1500, num=1, seed=2)
    assert torch.equal(generate(model, 1500, num=9, seed=2)[:1], alone)


def test_rounding_never_draws_a_code_of_probability_0():
    logits = torch.log(torch.tensor([[0.3, 0.4, 0.3, 0.0]], dtype=torch.float64))
    u = torch.tensor([1 - 2**-53], dtype=torch.float64)
    softmax = Categorical().set_quantizer(MuLaw(4))
    assert softmax.sample(logits, u, Sampling()).item() == 2
    assert softmax.sample(logits, u, Sampling(temperature=1e-310)).item() == 1


def test_a_session_continues_from_a_state():
    model = make(input_kernel_size=2)
    uniforms = Uniforms(0, 2).draw(40)
    plan, start = model.plan(), model.start(2)
    session = TorchSession(plan, start)
    whole, last = session.sample(uniforms), session.state()
    session = TorchSession(plan, start)
    first = session.sample(uniforms[:, :13])
    session = TorchSession(plan, session.state())
    second, end = session.sample(uniforms[:, 13:]), session.state()
    assert torch.equal(torch.cat([first, second], 1), whole)
    assert end.keys() == last.keys() == start.keys()
    for key in end:
        torch.testing.assert_close(end[key], last[key])
    with torch.no_grad():
        _, teacher = model.step(whole)
    for key in end:
        torch.testing.assert_close(end[key].to(teacher[key].dtype), teacher[key])


def test_priming_equals_a_step_over_the_recording():
    model = make()
    whole = generate(model, 60, num=2, seed=1)
    with torch.no_grad():
        codes = model.encode(whole[:, 0])
        _, state = model.step(codes[:, :25])
    uniforms = Uniforms(9, 2).draw(30)
    expected = TorchSession(model.plan(), state).sample(uniforms)
    primed = generate(model, 30, num=2, seed=9, prime=whole[..., :25])
    assert torch.equal(model.encode(primed[:, 0]), expected)
    assert torch.equal(generate(model, 30, num=2, seed=9, prime=whole[:1, :, :25])[0], primed[0])


def test_generation_uses_the_current_weights():
    model = make()
    first = generate(model, 40)
    with torch.no_grad():
        model.stack.layers[3].conv.weight.add_(torch.randn_like(model.stack.layers[3].conv.weight))
    second = generate(model, 40)
    assert not torch.equal(first, second)
    codes = model.encode(second[:, 0])
    with torch.no_grad():
        logits = copy.deepcopy(model).double()(codes)
    u = Uniforms(0, 1).draw(40)
    assert all(
        torch.equal(model.distribution.sample(logits[..., t], u[:, t], Sampling()), codes[:, t]) for t in range(40)
    )
    add_weight_norm(model)
    torch.testing.assert_close(generate(model, 40), second)
    fold_weight_norm(model)
    torch.testing.assert_close(generate(model, 40), second)


def test_loss_is_the_mean_over_the_mask():
    model = make()
    codes = codes_of(model)
    mask = torch.zeros_like(codes, dtype=torch.bool)
    mask[0, 10:20] = True
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(model(codes), codes, reduction="none")
        torch.testing.assert_close(model.loss(codes), nats.mean())
        torch.testing.assert_close(model.loss(codes, mask), nats[0, 10:20].mean())


@pytest.mark.parametrize("options", VARIANTS)
def test_loss_and_prior_are_those_of_the_distribution(options):
    model = make(**options)
    codes = codes_of(model)
    with torch.no_grad():
        nats = model.nll(codes)
        torch.testing.assert_close(nats, model.distribution.nll(model(codes), codes))
        torch.testing.assert_close(model.loss(codes), nats.mean())
        prior = torch.nn.functional.one_hot(torch.tensor(model.num_codes // 3), model.num_codes) * 1e6
        fold_weight_norm(model).head.out.weight.zero_()
        model.set_prior(prior)
        likely = model.nll(torch.full((1, 9), model.num_codes // 3))
        assert (likely < 1).all() and (model.nll(torch.full((1, 9), model.num_codes // 2)) > likely).all()


def test_amplitudes_stay_float32_under_autocast():
    """In bf16 the number next to 0.5 is 0.502."""
    model = make(distribution="gaussians", input="scalar", quantizer="linear", num_codes=65536)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parameters = model(codes_of(model))
    assert parameters.dtype == torch.float32
    assert (parameters != parameters.bfloat16()).float().mean() > 0.9


def test_scalar_input_is_a_convolution_over_amplitudes():
    model = make(input="scalar", input_kernel_size=3)
    codes = codes_of(model, 1, 5)
    plan, sound = model.input_embedding.plan(), model.decode(codes)[0].tolist()
    with torch.no_grad():
        out = model.input_embedding(codes)[0].T
    for t in range(5):
        taps = [sound[t - 2 + j] if t - 2 + j >= 0 else 0.0 for j in range(3)]
        torch.testing.assert_close(out[t], plan.bias + torch.tensor(taps) @ plan.weight)


def test_a_model_folder_stores_quantizer_and_distribution(tmp_path):
    model = make(distribution="logistics", components=2, input="scalar", quantizer="linear", num_codes=1000)
    again = load(save(model, tmp_path / "model"))
    assert again.config == model.config and again.distribution.num_parameters == 6
    assert torch.equal(generate(again, 30, seed=3), generate(model, 30, seed=3))


def test_missing_arguments_of_a_model_folder_have_defaults(tmp_path):
    model = make()
    path = save(model, tmp_path / "model") / "config.json"
    config = json.loads(path.read_text())
    for key in ("input", "quantizer", "distribution", "components"):
        del config["arguments"][key]
    path.write_text(json.dumps(config))
    again = load(path.parent)
    assert again.config == model.config and torch.equal(again(codes_of(model)), model(codes_of(model)))


@pytest.mark.parametrize("distribution", ["logistics", "gaussians"])
def test_auto_finds_an_engine_for_every_distribution(distribution):
    model = make(distribution=distribution)
    source = stream(model, num=2, chunk=30, seed=4)
    assert source.engine in ENGINES
    assert torch.equal(next(source), generate(model, 30, num=2, seed=4, engine="torch"))


def test_evaluate_does_not_depend_on_the_chunk_size(monkeypatch):
    model = make()
    sounds = [model.decode(codes_of(model, 1, 130)[0]), model.decode(codes_of(model, 1, 7)[0])]
    with torch.no_grad():
        nats = sum(model.loss(model.encode(s).unsqueeze(0)).item() * len(s) for s in sounds)
    result = evaluate(model, sounds)
    assert result.count == 137 and result.files == 2 and "256 mu-law codes at 8000 Hz" in result.definition
    assert result.bits_per_sample == pytest.approx(nats / 137 / math.log(2), rel=1e-6)
    linear = make(distribution="gaussians", quantizer="linear", num_codes=65536, input="scalar")
    assert "65536 linear codes at 8000 Hz" in evaluate(linear, sounds).definition
    monkeypatch.setattr("wavedil.audio.evaluation.CHUNK", 50)
    assert evaluate(model, sounds).bits_per_sample == pytest.approx(result.bits_per_sample, rel=1e-6)
    engine = evaluate(model, sounds, precision="fp32")
    assert engine.bits_per_sample == pytest.approx(result.bits_per_sample, rel=1e-6)
    assert engine.definition == f"{result.definition}; evaluated by the sampling engine in fp32"
    rounded = evaluate(model, sounds, precision="bf16").bits_per_sample
    assert 1e-9 < abs(rounded - result.bits_per_sample) < 0.05
    with pytest.raises(WavedilError, match="engines that can run this model have fp32, bf16, int8"):
        evaluate(model, sounds, precision="fp16")


def test_states_of_other_models_are_refused():
    model, other = make(), make(channels=10)
    state = stream(other, num=2, chunk=5).state()
    for given in (state, {"previous": state["previous"]}, {}):
        with pytest.raises(
            WavedilError, match=r"state has (stack|input_embedding|previous)\S* .*: expected \(.*; pass what"
        ):
            stream(model, state=given)
    for bad in (5.0, "5", [5, 2.0], True and 0):
        with pytest.raises(WavedilError, match="samples is"):
            generate(model, bad)
    with pytest.raises(WavedilError, match="model is a Linear, which does not generate sound"):
        stream(torch.nn.Linear(1, 1))


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_sampling_is_the_inverse_cdf():
    softmax = Categorical().set_quantizer(MuLaw(4))
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))

    def pick(u, **settings):
        return softmax.sample(logits, torch.tensor([u], dtype=torch.float64), Sampling(**settings)).item()

    assert [pick(u) for u in (0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 0.999999)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [pick(u, temperature=0) for u in (0.0, 0.9)] == [3, 3]
    assert [pick(u, top_k=2) for u in (0.0, 0.4, 0.45, 0.99)] == [2, 2, 3, 3]  # 3/7 is 0.4286
    # The codes 1, 2, 3 remain, with probabilities 0.2, 0.3 and 0.4 of 0.9.
    assert [pick(u, top_p=0.75) for u in (0.0, 0.2, 0.23, 0.55, 0.56, 0.99)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (5, None), (None, 0.6), (7, 0.8), (1, None), (None, 1e-9)])
def test_truncation_equals_a_sort_in_plain_python(temperature, top_k, top_p):
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3
    got = Sampling(temperature, top_k, top_p).probabilities(logits)
    for row, result in zip(logits.double().tolist(), got.tolist(), strict=True):
        weights = [math.exp(v / temperature) for v in row]
        p = [w / sum(weights) for w in weights]
        order = sorted(range(50), key=lambda i: -p[i])[: top_k or 50]
        total, kept, held = sum(p[i] for i in order), [], 0.0
        for i in order:
            if top_p is not None and held >= top_p * total:
                break
            kept.append(i)
            held += p[i]
        expected = [p[i] if i in kept else 0.0 for i in range(50)]
        assert result == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: generate(m, 0), "positive integer or a list of positive integers"),
        (lambda m: generate(m, 5, num=0), "num is 0: expected a positive integer"),
        (lambda m: generate(m, 5, seed=-1), "seed is -1"),
        (lambda m: generate(m, 5, temperature=-0.1), "temperature is -0.1"),
        (lambda m: generate(m, 5, top_k=0), "top_k is 0"),
        (lambda m: generate(m, 5, top_p=1.5), "top_p is 1.5"),
        (lambda m: generate(m, 5, engine="warp"), "expected one of auto, torch"),
        (lambda m: generate(m, 5, prime=torch.zeros(3, 1, 4)), "expected \\(1 or 1, 1, time\\)"),
        (lambda m: m(torch.zeros(1, 5)), "expected int64"),
        (lambda m: m.step(codes_of(m), {}), r"previous missing: expected \(2, 1\)"),
        (lambda m: m.step(codes_of(m), m.start(3)), r"previous \(3, 1\): expected \(2, 1\)"),
        (lambda m: WaveNet(skip_channels=0), "positive integer"),
        (lambda m: WaveNet(dilations="0,1"), "0"),
        (lambda m: WaveNet(input="sound"), "expected one of codes, scalar"),
        (lambda m: WaveNet(components=3), "since the distribution is categorical"),
        (lambda m: WaveNet(quantizer="linear", num_codes=1), "expected an integer from 2 to 65536"),
        (
            lambda m: generate(make(distribution="gaussians"), 5, top_k=3),
            "top_k is 3: expected None, since it is for categorical",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(WavedilError, match=message):
        call(make())


def test_nan_weights_are_refused():
    model = make()
    with torch.no_grad():
        model.head.out.bias[3] = math.nan
    with pytest.raises(WavedilError, match="diverged"):
        generate(model, 5)


def test_an_interrupt_returns_the_finished_samples():
    model = make(dilations=[1])
    seen = []

    def progress(done, total):
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    assert generate(model, 5000, progress=progress).shape == (1, 1, 2048)


@pytest.mark.parametrize("codes", [[[0, 256]], [[300, 1]], [[-1, 0]]])
@pytest.mark.parametrize("call", ["forward", "loss", "nll", "step", "decode"])
def test_codes_outside_their_range_are_refused(call, codes):
    model = WaveNet(8, 8, "1,2")
    with pytest.raises(WavedilError, match=r"codes span .*: expected 0\.\.255"):
        getattr(model, call)(torch.tensor(codes))
