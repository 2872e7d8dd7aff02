import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedil.audio.distributions.quantizers import Linear, MuLaw, mu_law_decode, mu_law_encode
from wavedil.errors import WavedilError

# torchaudio raises OSError or RuntimeError with a torch that it was not built for.
MISSING = {"exc_type": (ImportError, OSError, RuntimeError)}
SIZES = [2, 3, 4, 5, 16, 255, 256, 257, 1024, 4095, 65535, 65536]


@pytest.fixture
def sound():
    generator = torch.Generator().manual_seed(0)
    return torch.cat([torch.linspace(-1, 1, 4001), torch.randn(4000, generator=generator) * 0.3])


def test_known_values():
    codes = mu_law_encode(torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    # ln(1 + 255 / 2) / ln(256) = 0.8757; (0.8757 + 1) / 2 * 255 = 239.15
    assert codes.tolist() == [0, 16, 128, 239, 255]
    assert codes.dtype == torch.int64
    assert mu_law_decode(torch.tensor([0, 255])).tolist() == pytest.approx([-1, 1])
    assert mu_law_decode(torch.tensor([128])).item() == pytest.approx(8.621e-5, rel=1e-3)
    assert mu_law_encode(torch.tensor([-1.0, 0.0, 1.0]), num_codes=2).tolist() == [0, 1, 1]


@pytest.mark.parametrize("codes", SIZES)
def test_encode_inverts_decode_for_every_code(codes):
    every = torch.arange(codes)
    decoded = mu_law_decode(every, codes)
    assert decoded.dtype == torch.float32
    assert decoded.diff().min() > 0 and decoded.abs().max() <= 1
    assert torch.equal(mu_law_encode(decoded, codes), every)


@settings(max_examples=60)
@given(codes=st.integers(2, 65536), value=st.floats(-1, 1, width=32))
def test_rounding_is_to_the_nearest_level(codes, value):
    assert torch.equal(mu_law_encode(mu_law_decode(torch.arange(codes), codes), codes),
                       torch.arange(codes))  # fmt: skip
    assert mu_law_encode(torch.zeros(1), codes).item() == codes // 2
    # Rounding to the nearest level on the companded axis: the error is at most half a step.
    code = mu_law_encode(torch.tensor([value]), codes)
    step = torch.tensor([value, mu_law_decode(code, codes).item()], dtype=torch.float64)
    mu = codes - 1
    companded = step.sign() * torch.log1p(mu * step.abs()) / torch.log1p(torch.tensor(mu))
    assert companded.diff().abs().item() <= 1 / mu + 1e-5


def test_clipping_and_shapes():
    codes = mu_law_encode(torch.tensor([[[-3.0, torch.inf], [-torch.inf, 1.0001]]]))
    assert codes.tolist() == [[[0, 255], [0, 255]]]
    assert mu_law_encode(torch.zeros(2, 0)).shape == (2, 0)
    assert mu_law_decode(torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_codes_do_not_depend_on_the_dtype_of_the_sound(dtype, sound):
    sound = sound.clamp(-1, 1).to(dtype)
    assert torch.equal(mu_law_encode(sound), mu_law_encode(sound.float()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mu_law_encode(torch.tensor([0.0, float("nan")])), "1 of 2 samples are NaN"),
        (lambda: mu_law_encode(torch.zeros(3, dtype=torch.int16)), "divide 16-bit integers"),
        (lambda: mu_law_encode(torch.zeros(3), num_codes=1), "num_codes is 1: expected an integer from 2 to 65536"),
        (lambda: mu_law_decode(torch.zeros(3, dtype=torch.int64), num_codes=65537), "num_codes is 65537"),
        (lambda: mu_law_decode(torch.tensor([3, 256])), r"span 3\.\.256: expected 0\.\.255"),
        (lambda: mu_law_decode(torch.tensor([-1])), r"span -1\.\.-1"),
        (lambda: mu_law_decode(torch.tensor([1.0])), "codes is float32: expected a tensor or an array of integers"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(WavedilError, match=message):
        call()


@pytest.mark.parametrize("codes", SIZES)
def test_agrees_with_torchaudio(codes, sound):
    functional = pytest.importorskip("torchaudio.functional", **MISSING)
    sound = sound.clamp(-1, 1)
    ours = mu_law_encode(sound, codes)
    assert torch.equal(ours, functional.mu_law_encoding(sound, codes))
    theirs = functional.mu_law_decoding(ours, codes)
    torch.testing.assert_close(mu_law_decode(ours, codes), theirs, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("codes", [16, 256, 1024])
def test_agrees_with_librosa(codes, sound):
    librosa = pytest.importorskip("librosa", **MISSING)
    sound = sound.clamp(-1, 1)
    mu = codes - 1
    curve = torch.from_numpy(librosa.mu_compress(sound.numpy(), mu=mu, quantize=False))
    # Levels are 2 / mu apart on the curve, so rounding is off by at most half of that.
    levels = mu_law_encode(sound, codes) / mu * 2 - 1
    assert (levels - curve).abs().max() <= 1 / mu + 1e-6
    expanded = librosa.mu_expand(levels.numpy(), mu=mu, quantize=False)
    decoded = mu_law_decode(mu_law_encode(sound, codes), codes)
    torch.testing.assert_close(decoded, torch.from_numpy(expanded).float(), rtol=1e-4, atol=1e-6)
    quantized = torch.from_numpy(librosa.mu_compress(sound.numpy(), mu=mu)) + codes // 2
    assert (quantized - mu_law_encode(sound, codes)).abs().max() <= 1


@pytest.mark.parametrize("quantizer", [MuLaw(256, 0.85), MuLaw(31, 0.5), Linear(65536, 0.97), Linear(7, 0.3)])
def test_pre_emphasis_is_applied_and_undone(quantizer, sound):
    sound = 0.3 * sound.unsqueeze(0)
    codes = quantizer.encode_sound(sound)
    emphasized = sound - quantizer.pre_emphasis * torch.cat([torch.zeros(1, 1), sound[:, :-1]], dim=1)
    assert torch.equal(codes, quantizer.encode(emphasized))
    decoded, last = quantizer.decode_sound(codes)
    expected, value = [], 0.0
    for level in quantizer.decode(codes[0]).tolist():
        value = level + quantizer.pre_emphasis * value
        expected.append(value)
    expected = torch.tensor(expected, dtype=torch.float64)
    assert (decoded[0] - expected.clamp(-1, 1)).abs().max() < 1e-7
    assert last.item() == pytest.approx(expected[-1].item())
    if expected.abs().max() < 1:
        assert torch.equal(quantizer.encode_sound(decoded), codes)


@pytest.mark.parametrize("parts", [[8001], [1, 8000], [511, 512, 513, 6465], [0, 8001]])
def test_sound_is_coded_and_decoded_in_chunks(parts, sound):
    quantizer, sound = MuLaw(256, 0.85), 0.5 * sound.repeat(2, 1)
    codes, before = [], None
    for chunk in sound.split(parts, dim=1):
        codes.append(quantizer.encode_sound(chunk, before))
        before = chunk[:, -1] if chunk.shape[1] else before
    codes = torch.cat(codes, dim=1)
    assert torch.equal(codes, quantizer.encode_sound(sound))
    decoded, last = [], None
    for chunk in codes.split(parts, dim=1):
        part, last = quantizer.decode_sound(chunk, last)
        decoded.append(part)
    whole, end = quantizer.decode_sound(codes)
    assert torch.equal(torch.cat(decoded, dim=1), whole)
    assert torch.allclose(last, end, atol=1e-12, rtol=0)


def test_pre_emphasis_lowers_the_noise_at_high_frequencies():
    time = torch.arange(16000) / 16000
    sound = sum(0.3 / k * torch.sin(2 * torch.pi * 173.3 * k * time + k) for k in range(1, 10)).unsqueeze(0)

    def noise(quantizer):
        error = quantizer.decode_sound(quantizer.encode_sound(sound))[0] - sound
        return torch.fft.rfft(error).abs().square()[0, 4000:].mean()

    assert noise(MuLaw(256, 0.85)) < 0.25 * noise(MuLaw(256))


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan"), "x", None])
def test_pre_emphasis_outside_its_range_is_refused(value):
    with pytest.raises(WavedilError, match="pre_emphasis"):
        MuLaw(256, value)
