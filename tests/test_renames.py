"""Python names of version 0.1: still found with a warning, or refused with the new name."""

import subprocess
import sys

import pytest

import wavedil.train
import wavedil.vision
from wavedil.audio import Features, LogMel, WaveNet
from wavedil.errors import WavedilError
from wavedil.renames import NAMES
from wavedil.vision import ASPP


@pytest.mark.parametrize(("module", "old", "new"), [(m, *names) for m in NAMES for names in NAMES[m].items()])
def test_old_classes_are_found_with_a_warning(module, old, new):
    with pytest.warns(FutureWarning, match=f"{module}.{old} is now {module}.{new}"):
        found = getattr(sys.modules[module], old)
    assert found is getattr(sys.modules[module], new)


def test_other_names_are_missing_as_usual():
    assert not hasattr(wavedil.vision, "Nothing") and not hasattr(wavedil.train, "Nothing")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LogMel(hop=80), "LogMel has no argument hop: it is now hop_length"),
        (lambda: Features(4, hop=80), "it is now hop_length"),
        (lambda: WaveNet(codes=64), "WaveNet has no argument codes: it is now num_codes"),
        (lambda: WaveNet(quantiser="linear"), "it is now quantizer"),
        (lambda: ASPP(8, 3, rates=[1, 2]), "it is now dilations"),
    ],
)
def test_old_arguments_are_refused_with_the_new_name(build, message):
    with pytest.raises(WavedilError, match=message):
        build()


def test_importing_the_old_models_names_the_new_place():
    code = "from wavedil.audio.relatives.tcn import TCN"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "ImportError: wavedil.audio.relatives is now wavedil.audio.models" in done.stderr
