"""The check of the compiled loop on the user's machine."""

import math

import pytest

from wavedil.audio import WaveNet, generate
from wavedil.audio.distributions import Categorical, MuLaw
from wavedil.audio.generation.engines import choose
from wavedil.audio.generation.engines.cpu import agreement, packing
from wavedil.audio.generation.engines.cpu.agreement import Agreement, is_trusted, measure_agreement
from wavedil.errors import WavedilError

DISTRIBUTION = Categorical().set_quantizer(MuLaw(50))


@pytest.fixture
def unknown_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(agreement, "_trusted", {})
    monkeypatch.setattr(agreement, "_record", lambda key: tmp_path / "_".join(map(str, key)))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("batch", [1, 7])
def test_a_wrong_number_is_found(precision, batch, monkeypatch):
    assert measure_agreement(DISTRIBUTION, precision, batch).is_good
    bias = packing.gate_bias
    monkeypatch.setattr(packing, "gate_bias", lambda *args: bias(*args) + 0.1)
    assert not measure_agreement(DISTRIBUTION, precision, batch).is_good


def test_nan_and_wrong_codes_are_no_agreement():
    assert Agreement(1e-6, 1e-7, 1.0, True).is_good
    assert not Agreement(math.nan, math.nan, 1.0, True).is_good
    assert not Agreement(1e-6, 1e-7, 0.5, True).is_good


def test_the_check_runs_once_and_is_recorded(unknown_machine, monkeypatch):
    calls = []
    good = Agreement(0.0, 0.0, 1.0, True)
    monkeypatch.setattr(agreement, "measure_agreement", lambda *args: calls.append(args) or good)
    assert all(is_trusted(DISTRIBUTION, "fp32", batch) for batch in (1, 1, 7, 500))
    assert len(calls) == 2
    agreement._trusted.clear()  # as in the next process
    assert is_trusted(DISTRIBUTION, "fp32", 1) and len(calls) == 2
    monkeypatch.setattr("os.getpid", lambda: -1)  # as after a fork
    assert is_trusted(DISTRIBUTION, "bf16", 1) and len(calls) == 2


def test_a_machine_that_fails_falls_back_with_one_warning(unknown_machine, monkeypatch, caplog):
    monkeypatch.setattr(agreement, "measure_agreement", lambda *args: Agreement(0.5, 0.1, 0.2, True))
    model = WaveNet(8, 8, "1..4", sample_rate=8000).eval()
    for _ in range(2):
        assert choose("auto", model.plan(), 1) == "torch"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "computes wrong numbers in fp32 on this machine" in caplog.text
    agreement._trusted.clear()  # a failure is not recorded
    assert not is_trusted(DISTRIBUTION, "fp32", 1)
    with pytest.raises(
        WavedilError, match="precision is 'int8': engine numba computes wrong .* on this machine: use fp32"
    ):
        generate(model, 5, precision="int8")
    with pytest.raises(
        WavedilError, match="engine numba computes wrong numbers in it on this machine: use engine='torch'"
    ):
        generate(model, 5, engine="numba")
