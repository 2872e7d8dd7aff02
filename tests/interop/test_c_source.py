"""``wavedil export`` of C source: strict compilers and sanitizers, and a program that runs it, beside the models."""

import os
import re
import shlex
import shutil
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, WaveNet, save
from wavedil.audio.effects.engines import TorchEngine
from wavedil.audio.models.layer_chain import LayerChain
from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMContainer
from wavedil.audio.models.vits import WN
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.interop import c_source
from wavedil.interop.c_source import export_c
from wavedil.writing import atomic_write

CC = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler")
RATE, LENGTH = 8000, 16000  # two seconds
STRICT = "-std=c99 -Wall -Wextra -Werror -pedantic"


def pedal() -> Effect:
    torch.manual_seed(0)
    slow = {"time_constants": [0.02], "charges": [3.0]}
    return Effect(5, 6, "1,70,2", knobs={"gain": [0, 2], "a-b": [-1, 1], "a b": [0, 1]}, sample_rate=RATE, **slow)


def amp() -> NAM:
    torch.manual_seed(0)
    arrays = [
        LayerArray(1, 6, 3, "1,150", gating=["gated", "blended"], groups=2, films={"conv_pre": {}}),
        LayerArray(6, 3, 1, "3", activation="SiLU", head_bias=True),
    ]
    return NAM(arrays, head_scale=0.5, sample_rate=RATE)


def several() -> NAMContainer:
    torch.manual_seed(0)
    return NAMContainer([NAMLSTM(3, 2, sample_rate=RATE), amp()], [0.5, 1])


def conditioned() -> LayerChain:
    torch.manual_seed(0)
    layers = [{"type": "gru", "channels": 6}, {"type": "lstm", "channels": 3}, {"type": "conv", "channels": 1}]
    return LayerChain(layers, residual=True, knobs={"gain": [0, 2], "tone": [-1, 1]}, sample_rate=RATE)


DRIVER = """
#include "amp.h"
#include "chain.h"
#include "my-pedal.h"
#include "small.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH 16000
static float sound[LENGTH], result[LENGTH];

#define RUN(prefix) \\
  static void run_##prefix(void) { \\
    static const int lengths[] = {1, 64, 37, 0, 500, 3}; \\
    prefix##_state *state = malloc(prefix##_state_size()), copy; \\
    int at = 0, i = 0, n; \\
    prefix##_init(state); \\
    if (prefix##_set_knob(state, 0, sound[0]) != -1) exit(2); /* NaN */ \\
    memcpy(result, sound, sizeof sound); /* processed in place */ \\
    for (; at < LENGTH; at += n, i++) { \\
      if (at > LENGTH / 2) prefix##_set_knob(state, 0, 1.5f); \\
      n = lengths[i % 6]; \\
      if (n > LENGTH - at) n = LENGTH - at; \\
      copy = *state; \\
      prefix##_process(&copy, sound + at, result + at, n); /* a copy leaves the state as it is */ \\
      prefix##_process(state, sound + at, result + at, n); \\
    } \\
    fwrite(result, sizeof(float), LENGTH, stdout); \\
    free(state); \\
  }
RUN(amp)
RUN(my_pedal)
RUN(small)
RUN(chain)

int main(void) {
  if (fread(sound, sizeof(float), LENGTH, stdin) != LENGTH) return 1;
  run_amp();
  run_my_pedal();
  run_small();
  run_chain();
  return AMP_KNOBS || MY_PEDAL_KNOBS != 3 || MY_PEDAL_SETTLE < 800 || SMALL_SAMPLE_RATE != 8000 || AMP_LATENCY ||
         MY_PEDAL_KNOB_GAIN || MY_PEDAL_KNOB_A_B != 1 || MY_PEDAL_KNOB_A_B_2 != 2;
}
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of the C files of four models, a sound with odd values, and their outputs by PyTorch."""
    folder = tmp_path_factory.mktemp("c")
    for name, make in (("pedal", pedal), ("amp", amp), ("several", several), ("chain", conditioned)):
        save(make(), folder / name)
    commands = ["amp amp.c", "pedal my-pedal.c", "several small.c --quality 0.2", "chain chain.c"]
    for words in map(str.split, commands):
        assert main(["export", str(folder / words[0]), str(folder / words[1]), *words[2:]]) == 0
    (folder / "driver.c").write_text(DRIVER)
    sound = (0.5 * np.random.default_rng(0).standard_normal((1, LENGTH))).astype(np.float32)
    sound[0, LENGTH // 4 : LENGTH // 2] *= 20  # loud
    sent = sound.copy()
    for index, value in ((0, np.nan), (900, np.inf), (901, -np.inf), (1700, 1e20), (1701, 1e-42)):
        sent[0, index], sound[0, index] = value, 0
    expected = []
    for model in (amp(), pedal(), several().at_quality(0.2), conditioned()):
        engine = TorchEngine(model.eval(), 1)
        middle = torch.tensor([(low + high) / 2 for low, high in model.knobs.values()])
        engine.set_knobs(middle)
        lengths, at, parts = [1, 64, 37, 0, 500, 3], 0, []
        for i in range(LENGTH):
            if model.knobs and at > LENGTH // 2:
                engine.set_knobs(torch.tensor([1.5, *middle[1:]]))
            n = min(lengths[i % 6], LENGTH - at)
            parts.append(engine.process(sound[:, at : at + n]))
            at += n
            if at == LENGTH:
                break
        expected.append(np.concatenate(parts, axis=1)[0])
    return folder, sent, np.stack(expected)


@pytest.mark.parametrize(
    "flags",
    [f"{STRICT} -O1 -fsanitize=address,undefined -fno-sanitize-recover=all", f"{STRICT} -O2 -ffast-math",
     f"{STRICT} -O2 -march=native", "-O1 -DAMP_SCALAR -DMY_PEDAL_SCALAR -DSMALL_SCALAR -DCHAIN_SCALAR"],
)  # fmt: skip
def test_strict_compilers_accept_the_files_and_the_program_equals_the_models(exported, flags):
    folder, sound, expected = exported
    program = folder / f"program{abs(hash(flags))}"
    files = ["driver.c", "amp.c", "my-pedal.c", "small.c", "chain.c"]
    subprocess.run([CC, *flags.split(), "-o", program, *files], cwd=folder, check=True, timeout=300)
    environment = {"ASAN_OPTIONS": "detect_leaks=0"}  # it needs ptrace, which containers forbid
    done = subprocess.run([program], input=sound.tobytes(), capture_output=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    result = np.frombuffer(done.stdout, np.float32).reshape(4, LENGTH)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected).max(1).min() > 0.01


def test_files_and_the_command_that_compiles_them_are_printed(tmp_path, capsys):
    save(amp(), tmp_path / "model")
    target = tmp_path / "my amp.c"
    assert main(["export", str(tmp_path / "model"), str(target)]) == 0
    source, header, command = capsys.readouterr().out.splitlines()
    assert (source, header) == (str(target), str(tmp_path / "my amp.h"))
    words = shlex.split(command.removeprefix("compile with: "))
    assert words[-1] == str(target) and "int my_amp_set_knob(" in target.with_suffix(".h").read_text()
    subprocess.run([*words[:1], "-O0", "-c", words[-1], "-o", tmp_path / "amp.o"], check=True)
    assert main(["export", str(tmp_path / "model"), str(target)]) == 0  # its own files are replaced


def refused(capsys, *words) -> str:
    assert main(["export", *map(str, words)]) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ") and out.err.count("\n") == 1 and not out.out
    return out.err


def test_bad_models_and_places_are_refused_and_leave_no_file(tmp_path, capsys, monkeypatch):
    save(amp(), tmp_path / "amp")
    save(WaveNet(4, 4, "1"), tmp_path / "wavenet")
    folder = tmp_path / "out"
    folder.mkdir()
    assert "a WaveNet has no C source: expected an Effect" in refused(capsys, tmp_path / "wavenet", folder / "a.c")
    save(WN(4, layers=2), tmp_path / "wn")
    assert "a WN has no C source: its convolutions are not causal" in refused(capsys, tmp_path / "wn", folder / "a.c")
    assert "write .c" in refused(capsys, tmp_path / "amp", folder / "a.C")
    assert "quality is 0.5: a NAM like this has only one" in refused(
        capsys, tmp_path / "amp", folder / "a.c", "--quality", "0.5"
    )
    assert "quality is for effects as .c files" in refused(capsys, tmp_path / "amp", folder / "a.nam", "--quality", "1")
    assert "streaming is for .onnx" in refused(capsys, tmp_path / "amp", folder / "a.c", "--streaming")
    model = amp()
    with torch.no_grad():
        model.arrays[0].layers[0].conv.bias[0] = float("nan")
    save(model, tmp_path / "diverged")
    assert "NaN or infinity" in refused(capsys, tmp_path / "diverged", folder / "a.c")
    assert not list(folder.iterdir())
    (folder / "a.h").write_text("int mine;\n")
    assert re.search(r"a\.h was not written by wavedil: remove it", refused(capsys, tmp_path / "amp", folder / "a.c"))
    assert [path.name for path in folder.iterdir()] == ["a.h"] and (folder / "a.h").read_text() == "int mine;\n"
    (folder / "b.h").mkdir()
    assert "b.h is a folder" in refused(capsys, tmp_path / "amp", folder / "b.c")
    os.mkfifo(folder / "pipe.c")  # reading it would wait
    assert "pipe.c is not a regular file" in refused(capsys, tmp_path / "amp", folder / "pipe.c")
    monkeypatch.setattr(c_source, "atomic_write", full_disk)
    assert "no space left" in refused(capsys, tmp_path / "amp", folder / "c.c")
    assert sorted(path.name for path in folder.iterdir()) == ["a.h", "b.h", "pipe.c"]


@contextmanager
def full_disk(path):
    with atomic_write(path) as beside:
        yield beside
        if path.suffix == ".c":
            raise WavedilError("no space left")


NAMES = ["my amp", "int", "AMP_clean", "amp_init.v2-", "E", "x" * 200]


def test_any_file_name_gives_c_names_or_is_refused(tmp_path):
    """Names with characters that C has not, keywords, and names that the writer uses itself."""
    model = Effect(2, 2, "1,2", knobs={"a b 2": [0, 1], "a-b": [0, 1], "a b": [0, 1], "ä*/": [0, 1], "": [0, 1]}).eval()
    for name in NAMES:
        export_c(model, tmp_path / f"{name}.c")
    includes = "".join(f'#include "{name}.h"\n' for name in NAMES)
    (tmp_path / "all.c").write_text(
        f"{includes}int main(void) {{ static AMP_clean_state s; amp_init_v2_state t; int_state *i = 0; (void)i;\n"
        "AMP_clean_init(&s), amp_init_v2_init(&t), my_amp_set_knob(0, -1, 0);\n"
        "return AMP_CLEAN_KNOB_A_B_2 || AMP_CLEAN_KNOB_A_B != 1 || AMP_CLEAN_KNOB_A_B_2_2 != 2 || INT_KNOBS != 5; }\n"
    )
    files = [f"{name}.c" for name in NAMES]
    command = [CC, *STRICT.split(), "-O0", "-I.", "-o", "all", "all.c", *files]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    subprocess.run([tmp_path / "all"], check=True, timeout=60)
    before = sorted(tmp_path.iterdir())
    for name in [
        "2amp",
        "_amp",
        "-amp",
        " amp",
        "ämp",
        "アンプ",
        "a'b",
        "a*b",
        "a\nb",
        "..",
        "",
        "String",
        "math",
        "x" * 201,
    ]:
        with pytest.raises(WavedilError, match="expected a letter, then|would hide <"):
            export_c(model, tmp_path / f"{name}.c")
    assert sorted(tmp_path.iterdir()) == before
