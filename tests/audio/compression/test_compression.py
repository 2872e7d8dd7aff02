"""Compressed files hold all codes, in the bits that evaluation measures, and every engine expands them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wavedil.audio import Features, NearestUpsampling, WaveNet, read, write
from wavedil.audio.compression import codes as coding
from wavedil.audio.compression import compress_file, expand_file
from wavedil.audio.compression.codes import CategoricalLogOdds, LogOdds
from wavedil.audio.compression.header import Header
from wavedil.audio.evaluation import evaluate
from wavedil.errors import WavedilError

LINEAR = {"quantizer": "linear", "num_codes": 65536, "input": "scalar"}
VARIANTS = {
    "mulaw": {},
    "codes31": {"num_codes": 31, "pre_emphasis": 0.5},
    "logistics": {"distribution": "logistics", "components": 3},
    "exact": {"distribution": "gaussians", "components": 2, **LINEAR},
    "speakers": {"speakers": ["ann", "ben"]},
}


def make(**options):
    torch.manual_seed(0)
    model = WaveNet(**{"channels": 8, "skip_channels": 8, "dilations": "1..8", "sample_rate": 8000, **options}).eval()
    model.set_prior(torch.exp(-((model.quantizer.levels / 0.1) ** 2)))
    return model


@pytest.fixture
def source(tmp_path):
    return recording(tmp_path / "in.wav")


def recording(path, channels=1, time=261):
    sound = 0.1 * np.random.default_rng(0).standard_normal((channels, time))
    write(path, np.round(sound.clip(-1, 0.9999) * 32768).astype(np.float32) / 32768, 8000)
    return path


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("engines", [("numba", "torch"), ("torch", "numba")], ids="-".join)
def test_all_codes_return_from_any_engine(name, engines, source, tmp_path):
    model = make(**VARIANTS[name])
    speaker = "ben" if name == "speakers" else None
    calls = []
    result = compress_file(
        model, source, tmp_path / "x.wdil", speaker=speaker, engine=engines[0], progress=lambda *a: calls.append(a)
    )
    expand_file(model, tmp_path / "x.wdil", tmp_path / "out.wav", engine=engines[1])
    sound, back = (torch.from_numpy(read(path)[0]) for path in (source, tmp_path / "out.wav"))
    expected = model.decode(model.encode(sound))
    assert (back - expected).abs().max() <= 2**-15  # the file has 16 bits
    assert result["exact"] == (name == "exact") and calls == [(261, 261)]
    if name == "exact":
        assert torch.equal(back, sound)
    bits = evaluate(model, [sound[0]], speakers=[speaker] if speaker else None).bits_per_sample
    header = 40  # and the last bits
    assert result["bytes"] <= header + 1.02 * bits * sound.numel() / 8


def test_channels_are_separate_streams(tmp_path):
    model, source = make(**VARIANTS["exact"]), recording(tmp_path / "stereo.wav", 2, 40)
    compress_file(model, source, tmp_path / "x.wdil")
    expand_file(model, tmp_path / "x.wdil", tmp_path / "out.flac")
    assert np.array_equal(read(tmp_path / "out.flac", mono=False)[0], read(source, mono=False)[0])


@pytest.mark.parametrize("num_codes", [2, 3, 31, 256])
@pytest.mark.parametrize("name", ["mulaw", "logistics", "exact"])
def test_levels_computed_at_once_equal_the_definition(num_codes, name):
    distribution = make(**VARIANTS[name] | {"num_codes": num_codes}).distribution
    parameters = 5 * torch.randn(40, distribution.num_parameters, generator=torch.Generator().manual_seed(0))
    kinds = [CategoricalLogOdds] if name == "mulaw" else []
    fast = [
        *(kind(distribution, parameters) for kind in kinds),
        *(LogOdds(distribution, parameters, n) for n in (2, 6)),
    ]
    definition, codes = LogOdds(distribution, parameters), np.arange(40) % num_codes
    for level in range(definition.depth):
        low = codes >> (definition.depth - level) << (definition.depth - level)
        expected = definition(low, level)
        for each in fast:
            np.testing.assert_allclose(each(low, level).clip(-30, 30), expected.clip(-30, 30), rtol=1e-9, atol=1e-9)


def test_probabilities_of_ranges_are_sums_of_those_of_codes():
    for options in VARIANTS.values():
        model = make(**{**options, "num_codes": 40, "quantizer": "mulaw", "speakers": []})
        count = model.distribution.num_parameters
        parameters = torch.randn(30, count, generator=torch.Generator().manual_seed(0)).double() / 2
        each = torch.stack(
            [-model.distribution.nll(parameters[..., None], torch.full((30, 1), c)) for c in range(40)], 1
        )
        for first, last in ((0, 40), (0, 1), (39, 40), (3, 17), (0, 20), (20, 40)):
            ends = torch.full((30,), first), torch.full((30,), last)
            found = model.distribution.log_between(parameters, *ends)
            torch.testing.assert_close(found, each[:, first:last].logsumexp(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 7])
@pytest.mark.parametrize("tolerance", [coding.TOLERANCE, 1])
def test_rounding_errors_of_an_engine_do_not_matter(channels, tolerance, tmp_path, monkeypatch):
    """Also with a tolerance that no shift can keep: the shift with the largest margin is used."""
    model, source = make(), recording(tmp_path / "in.wav", channels)
    monkeypatch.setattr(coding, "TOLERANCE", tolerance)
    compress_file(model, source, tmp_path / "x.wdil")
    monkeypatch.undo()
    original, generator = CategoricalLogOdds.__call__, np.random.default_rng(1)

    def noisy(scale):
        def call(self, low, level):
            odds = original(self, low, level)
            return odds + generator.uniform(-scale, scale, odds.shape)

        return call

    monkeypatch.setattr(CategoricalLogOdds, "__call__", noisy((0.9 if tolerance < 1 else 3) * coding.TOLERANCE))
    expand_file(model, tmp_path / "x.wdil", tmp_path / "out.wav")
    monkeypatch.setattr(CategoricalLogOdds, "__call__", noisy(0.1))
    with pytest.raises(WavedilError, match="x.wdil"):
        expand_file(model, tmp_path / "x.wdil", tmp_path / "wrong.wav")
    assert not (tmp_path / "wrong.wav").exists()


def with_header(content, **changes):
    header, data = Header.read(content, Path("x"))
    return replace(header, **changes).to_bytes() + data


def test_damaged_foreign_and_other_models_files_are_refused(source, tmp_path):
    model = make()
    packed, out = tmp_path / "x.wdil", tmp_path / "out.wav"
    compress_file(model, source, packed)
    content = packed.read_bytes()

    def refuses(message, changed=content, other=model):
        packed.write_bytes(changed)
        with pytest.raises(WavedilError, match=message) as error:
            expand_file(other, packed, out)
        assert "\n" not in str(error.value) and not out.exists()
        assert "compress" in str(error.value)  # the remedy, or what is expected

    refuses("another model", other=make(residual_scale=0.5))
    refuses("not a file that wavedil compress wrote", b"RIFF" + content)
    refuses("not a file that wavedil compress wrote", b"")
    refuses("header is damaged", content[:20])
    refuses("header is damaged", content[:20] + b"\x05" + content[21:23])
    refuses("header is damaged", content[:20] + b"\x01[" + content[21:])
    refuses("cannot hold", with_header(content, samples=10**10))
    refuses("too early", with_header(content, samples=10**6))
    for changes in ({"samples": 0}, {"channels": 0}, {"speaker": 1.5}):
        refuses("header is damaged", with_header(content, **changes))
    refuses("header is damaged", content[:13] + b"\xff\xff" + content[15:])  # channels
    refuses("checksum", with_header(content, codes="00000000"))
    refuses("too early|checksum|damaged", content[:-60])
    for more in (b"\0", b"hi", bytes(1000)):
        refuses("do not end with the sound", content + more)
    middle = len(content) // 2
    refuses("too early|checksum|damaged", content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :])


def test_what_cannot_be_compressed_is_refused(source, tmp_path):
    target = tmp_path / "x.wdil"
    for model, path, message in [
        (make(sample_rate=16000), source, "8000 Hz and the model 16000 Hz"),
        (make(condition=NearestUpsampling(Features(3, 10))), source, "conditioned on features"),
        (make(speakers=["ann"]), source, "speaker"),
        (torch.nn.Linear(1, 1), source, "has no distribution"),
    ]:
        with pytest.raises(WavedilError, match=message):
            compress_file(model, path, target)
    write(tmp_path / "fine.wav", np.full((1, 50), 0.1234567, np.float32), 8000, "PCM_24")
    with pytest.raises(WavedilError, match="PCM_24.*convert it to 16 bit"):
        compress_file(make(**VARIANTS["exact"]), tmp_path / "fine.wav", target)
    assert not target.exists()
