"""``wavedil doctor``, and the options of all commands."""

import json

import pytest
import torch

from wavedil import doctor
from wavedil.cli import main
from wavedil.extras import install_extra


def names(result):
    return {each["name"]: each for each in result["findings"]}


def test_everything_agrees_here(run):
    result = json.loads(run("doctor", "--json").out)
    found = names(result)
    assert result["ok"] and {"python", "torch", "cpu", "numba cache", "extra train"} <= set(found)
    for name in (
        "dilated_conv",
        "gate",
        "gated_residual",
        "skip_sum",
        "cross_entropy",
        "engine numba",
        "compiled effect",
    ):
        assert found[f"{name} on cpu"]["state"] == "ok"


def test_a_wrong_result_and_a_broken_library_are_found(capsys, monkeypatch):
    monkeypatch.setattr("wavedil.ops.gate.gate", lambda h: torch.tanh(h[:, : h.shape[1] // 2]))
    imported = doctor.import_module

    def fail(name):
        if name == "torchaudio":
            raise OSError("undefined symbol")
        return imported(name)

    monkeypatch.setattr(doctor, "import_module", fail)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in ("mido", "onnx") else name)
    assert main(["doctor"]) == 1
    lines = {line[7:30].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert lines["gate on cpu"].startswith("wrong") and lines["skip_sum on cpu"].startswith("ok")
    assert lines["torchaudio"].startswith("wrong") and "undefined symbol" in lines["torchaudio"]
    assert f"without onnx: {install_extra('export')}" in lines["extra export"]


def test_an_error_of_a_check_does_not_end_the_others(monkeypatch):
    def broken():
        raise RuntimeError("no device")

    monkeypatch.setattr(doctor, "_devices", broken)
    monkeypatch.setattr(doctor, "_COMPARISONS", ())
    result = doctor.examine()
    assert not result.is_well and "RuntimeError: no device" in str(result) and "extra train" in str(result)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_quiet_commands_print_results_and_errors_only(run, refused, tmp_path, wavenet, place):
    words = ["sample", wavenet, "--seconds", 0.01, "--out", tmp_path / "a.wav"]
    run(*words)
    assert "is replaced" in run(*words).err
    words.insert(place, "-q")
    out = run(*words)
    assert not out.err and json.loads(out.out)["files"]
    assert "did you mean" in refused(*words, "--engine", "numbaa")
    assert "engine triton skipped" in run(*words[:place], "-v", *words[place + 1 :]).err
