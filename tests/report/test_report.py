"""Structure of the pages of runs."""

import base64
import fcntl
import importlib.util
import io
import json
import os
import re
import shutil
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.report import add_captions, write_report
from wavedil.report.charts import Line, chart
from wavedil.writing import atomic_write, lock_file, unlock

_spec = importlib.util.spec_from_file_location("report_runs", Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)

VOID = {"meta", "link", "img", "input", "br"}
HOSTILE = "</script><script>alert(1)</script>\"'><img src=http://x.invalid/>"


class Page(HTMLParser):
    """Elements of a page; raises if one is not closed in its order."""

    def __init__(self, path):
        super().__init__()
        self.text, self.open, self.elements = Path(path).read_text(encoding="utf-8"), [], []
        self.feed(self.text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open)

    def all(self, tag, name=None):
        found = [attributes for each, attributes in self.elements if each == tag]
        return [each for each in found if name in (each.get("class") or "").split()] if name else found


def sounds(page):
    return [soundfile.read(io.BytesIO(base64.b64decode(each["src"].split(",")[1])))[0] for each in page.all("audio")]


@pytest.fixture
def vocoder(tmp_path):
    return runs.make_vocoder_run(tmp_path / "vocoder")


def test_a_clip_stands_beside_its_original(vocoder):
    page = Page(write_report(vocoder))
    labels = [each["aria-label"] for each in page.all("figure", "clip")]
    assert labels[:4] == ["A: original", "B: model"] * 2 and labels[4:6] == ["A: step 10", "B: step 20"]
    original, model = sounds(page)[:2]
    np.testing.assert_allclose(original, runs.tone(210), atol=1e-4)
    np.testing.assert_allclose(model, runs.tone(200), atol=1e-4)
    assert "voice0.flac" in page.text and "anna" in page.text and "no preview repeats it" in page.text
    assert "9 samples" in page.text and "5.0 × real time" in page.text and "endless tones" in page.text
    assert all(each.get("aria-label") for each in page.all("input", "seek") + page.all("button", "play"))
    assert all(each.get("alt") for each in page.all("img"))


def test_a_recording_that_a_preview_belongs_to_is_in_its_row(vocoder):
    add_captions(vocoder / "previews", {"row_0": {"belongs": True, "file": "voice0.flac"}})
    page = Page(write_report(vocoder))
    labels = [each["aria-label"] for each in page.all("figure", "clip")]
    assert labels[4:] == ["A: original", "B: step 10", "C: step 20"]


def test_effects_have_a_difference_charts_and_esr_by_knob(tmp_path):
    page = Page(write_report(runs.make_effect_run(tmp_path / "amp")))
    _, wet, model, difference = sounds(page)
    np.testing.assert_allclose(difference, wet - model, atol=1e-4)
    assert "ESR of this clip" in page.text and "guitar.wav" in page.text and "drive 0.5" in page.text
    charts = [each["aria-label"] for each in page.all("svg") if "aria-label" in each]
    for name in ("mean output over input", "power in dB over frequency", "amplitude over time", "ESR in % over drive"):
        assert any(label.startswith(name) for label in charts), (name, charts)
    assert re.search(r"<td class=number>0.5</td><td class=number>5</td><td class=number>2</td>", page.text)


def test_images_have_parts_legend_and_confusion_matrix(tmp_path):
    page = Page(write_report(runs.make_image_run(tmp_path / "camvid")))
    parts = [each["data-part"] for each in page.all("figure") if "data-part" in each]
    assert parts == ["image", "truth", "prediction", "difference"] * 2
    assert "street.png" in page.text and "wrong pixels" in page.text and "50.0 %" in page.text
    assert "background:rgb(0, 90, 200)" in page.text
    assert "0.750" in page.text and "0.857" in page.text  # 30 / 40 and 60 / 70
    assert "0.750</td>" in page.text and "1.000</td>" in page.text  # recall 30 / 40, precision 30 / 30
    assert ">25.0</td>" in page.text and page.text.count("step 20</figcaption>") == 1


def test_a_run_that_ended_early_says_so(tmp_path):
    early = Page(write_report(runs.make_vocoder_run(tmp_path / "early", steps=40)))
    assert "Stopped before the end of its budget (100 steps or 4 minutes): trained for 40 steps in 60 s." in early.text
    timed = Page(write_report(runs.make_run(tmp_path / "timed", steps=40, seconds=240.0)))
    assert "the time limit of 4 minutes, before all 100 steps" in timed.text
    full = Page(write_report(runs.make_run(tmp_path / "full")))
    assert "all 100 steps" in full.text and "Stopped" not in full.text


def test_a_page_of_a_run_in_training_reloads_itself(vocoder):
    root = Page(write_report(vocoder, running=True)).all("html")[0]
    assert int(root["data-running"]) > 0 and int(root["data-written"]) > 1e9
    assert "data-running" not in Page(write_report(vocoder)).all("html")[0]


def test_one_point_is_no_curve():
    assert "<svg" not in chart([Line("held-out data", [(5, 2.0)])], "step", "loss")
    assert "one value so far: held-out" not in chart([], "step", "loss")
    both = chart([Line("training", [(1, 3.0), (2, 2.0)]), Line("held-out data", [(5, 2.5)])], "step", "loss")
    assert both.count("<path style") == 2 and "held-out data: one value so far, 2.5 (step: 5)" in both


@pytest.mark.parametrize("values", [[1, 1], [0, 0], [-1e300, 1e300], [1e-30, 2e-30], [float("nan"), float("inf")]])
def test_charts_of_odd_values(values):
    page = chart([Line("a", list(enumerate(values)))], "step", "loss", robust=True)
    assert "nan" not in page and "inf" not in page


def test_several_runs_are_compared(tmp_path, monkeypatch):
    first, second = (runs.make_vocoder_run(tmp_path / name) for name in ("one", "two"))
    runs.write_clip(second / "samples" / "sample_001_original.wav", runs.tone(99))
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(first), str(second)]) == 0
    page = Page(tmp_path / "comparison.html")
    labels = [each["aria-label"] for each in page.all("figure", "clip")]
    assert labels[:3] == ["A: original", "B: one", "C: two"]
    assert labels[3:] == ["A: original", "B: original of two", "C: one", "D: two"]
    (tmp_path / "again").mkdir()
    third = runs.make_vocoder_run(tmp_path / "again" / "one")
    text = write_report(first, third, third, out=tmp_path / "page.html").read_text()
    for name in ("page.png", "page"):
        with pytest.raises(WavedilError, match=f"--out .*{name}: expected a file that ends in .html"):
            write_report(first, out=tmp_path / name)
    assert "again/one (2)" in text and "again/one (3)" in text and f"{tmp_path.name}/one" in text
    assert "one: held-out data" in page.text and "two: held-out data" in page.text


@pytest.mark.parametrize("kind", ["vocoder", "effect", "image"])
def test_hostile_names_are_text(tmp_path, kind):
    run = getattr(runs, f"make_{kind}_run")(tmp_path / "<b>&'\"")
    about = json.loads((run / "about.json").read_text())
    about |= {"model": HOSTILE, "data": HOSTILE, "machine": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    (run / "about.json").write_text(
        json.dumps(about | {"classes": [HOSTILE, HOSTILE], "colors": [[1, 2, 3], [1, 2, 3]]})
    )
    facts = {"file": HOSTILE, "knobs": {HOSTILE: 1.0}, HOSTILE: HOSTILE, "speaker": [HOSTILE]}
    captions = {"row_0": facts, "image_000": facts, "sample_000": facts}
    add_captions(run / "samples", captions)
    validation = {
        "step": HOSTILE,
        "confusion": [[0, 0, 1]],
        "segments": [{"knobs": {HOSTILE: 1}, "error": 1, "signal": 1}],
    }
    (run / "validation.json").write_text(json.dumps(validation))
    runs.write_clip(run / "samples" / "it's <i>.wav", runs.tone(100))
    page = Page(write_report(run))
    assert len(page.all("script")) == 1 and not page.all("b", "x") and not page.all("i", "x")
    assert not [each for each in page.all("img") if not each["src"].startswith("data:image/")]
    assert HOSTILE not in page.text


@pytest.mark.parametrize(
    "value", ["[]", "{", '{"classes": 3}', '{"classes": ["a"], "colors": [[1]]}', "\0", '{"versions": 1}']
)
def test_damaged_facts_are_left_out(tmp_path, value):
    run = runs.make_image_run(tmp_path / "run")
    for name in ("about.json", "validation.json", "samples/captions.json"):
        (run / name).write_text(value)
    Page(write_report(run))


@pytest.mark.parametrize("entries", [[[0, 5, 1]], [[0, 0, -1]], [[0]], 3, [["a", "b", "c"]], [[0, 0, 10**30]]])
def test_a_damaged_confusion_matrix_is_left_out(tmp_path, entries):
    run = runs.make_image_run(tmp_path / "run")
    (run / "validation.json").write_text(json.dumps({"confusion": entries}))
    assert "Confusion" not in Page(write_report(run)).text


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([[30, 0], [40, 0], [60, 0]], True),
        ([[30, 0], [20, 0], [60, 0]], False),
        ([[30, 0], [40, 0]], False),
        ([[1, "<b>"]] * 3, False),
        ([[10**30, 0]] * 3, False),
        (3, False),
    ],
)
def test_figures_of_several_classes_per_pixel(tmp_path, counts, shown):
    run = runs.make_image_run(tmp_path / "run")
    (run / "validation.json").write_text(json.dumps({"step": 9, "counts": counts, "known": 240}))
    text = Page(write_report(run)).text
    assert (">recall</th>" in text) == shown == ("<td class=number>0.429</td>" in text) == (">25.0 %</td>" in text)
    assert "Confusion" not in text


@pytest.mark.parametrize(
    ("scores", "shown"),
    [([0.125, None], True), ([0.125], False), ([2, 0], False), ({"a": 1}, False), (["<b>", 0], False)],
)
def test_boundary_f1_is_a_column_of_the_classes(tmp_path, scores, shown):
    run = runs.make_image_run(tmp_path / "run")
    validation = json.loads((run / "validation.json").read_text()) | {"boundary_f1": scores}
    (run / "validation.json").write_text(json.dumps(validation))
    text = Page(write_report(run)).text
    assert (">boundary F1</th>" in text) == shown == ("<td class=number>0.125</td><td class=number>" in text)


def test_rows_of_many_clips_and_many_rows(tmp_path):
    run = runs.make_run(tmp_path / "many")
    for step in range(30):  # of a caption that is no step, so none is an old preview
        runs.write_clip(run / "samples" / f"sample_000_take{step:02d}.wav", runs.tone(200, 0.05))
    page = Page(write_report(run))
    labels = [each["aria-label"] for each in page.all("figure", "clip")]
    assert len(labels) == 30 and labels[25] == "Z: take25" and labels[29] == "30: take29"
    assert "left out" not in page.text and "not in this page" not in page.text
    for index in range(1, 104):
        runs.write_clip(run / "samples" / f"sample_{index:03d}.wav", runs.tone(200, 0.002))
    page = Page(write_report(run))
    assert len(page.all("section", "row")) == 100
    assert "4 rows are left out: a page has at most 100 of a kind" in page.text


def test_a_page_has_at_most_20_mb(tmp_path):
    run = runs.make_run(tmp_path / "long")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44100 * 60).astype(np.float32)
    for index in range(3):
        runs.write_clip(run / "samples" / f"sample_{index:03d}.wav", noise, 44100)
    for step in range(40):
        runs.write_clip(run / "previews" / f"step_{step:06d}_0.wav", noise[: 44100 * 6], 44100)
    path = write_report(run)
    page = Page(path)
    assert 10e6 < path.stat().st_size < 20e6
    assert page.text.count("of 60.0 s") == 3 and "of the oldest previews are left out" in page.text
    labels = [each["aria-label"] for each in page.all("figure", "clip")]
    assert labels[-1].endswith("step 39") and "step 0" not in str(labels)


def test_a_broken_file_is_named(vocoder):
    (vocoder / "samples" / "sample_001.wav").write_bytes(b"RIFF")
    text = Page(write_report(vocoder)).text
    assert "skipped: sample_001.wav" in text and text.count("<audio") == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "nowhere"], "nowhere is not a run folder"),
        (["{run}", "--out", "{run}"], "is a folder: expected a file"),
        (["{run}", "--out", "{run}/config.yaml"], "is the input"),
        (["{run}", "--out", "{run}/samples/page.html"], "is in the input folder"),
    ],
)
def test_what_a_page_must_not_replace(tmp_path, capsys, words, message):
    run = runs.make_vocoder_run(tmp_path / "run")
    before = (run / "config.yaml").read_text()
    assert main(["report", *(word.format(run=run) for word in words)]) == 2
    assert message in capsys.readouterr().err and (run / "config.yaml").read_text() == before


def test_the_paths_of_a_page_are_relative_to_nothing(vocoder):
    page = Page(write_report(vocoder))
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert "url(" not in page.text and "import " not in page.text and "fetch(" not in page.text
    with pytest.raises(WavedilError, match="runs is empty"):
        write_report()


def test_facts_without_end_are_cut(tmp_path):
    run = runs.make_image_run(tmp_path / "run")
    huge = "x" * 200_000
    about = {"model": huge, "data": huge, "machine": huge, "classes": [huge, huge], "colors": [[1, 2, 3], [1, 2, 3]]}
    (run / "about.json").write_text(json.dumps(about))
    add_captions(run / "samples", {"image_000": {huge: huge} | {str(index): huge for index in range(100)}})
    (run / "config.yaml").write_text(huge)
    (run / "metrics.csv").write_text("step,seconds,valid_rmse\n" + "1,2,3\n" * 20_000)
    path = write_report(run)
    assert path.stat().st_size < 3e6
    Page(path)


def test_the_shell_says_that_a_run_is_in_training(vocoder, monkeypatch):
    (vocoder / ".lock").touch()
    assert main(["report", str(vocoder)]) == 0 and "data-running" not in Page(vocoder / "report.html").all("html")[0]
    asking = os.open(vocoder / ".lock", os.O_RDONLY)  # another report
    fcntl.flock(asking, fcntl.LOCK_SH)
    assert main(["report", str(vocoder)]) == 0 and "data-running" not in Page(vocoder / "report.html").all("html")[0]
    os.close(asking)
    training = lock_file(vocoder / ".lock")
    assert main(["report", str(vocoder)]) == 0 and "data-running" in Page(vocoder / "report.html").all("html")[0]
    unlock(training)


def test_a_page_is_complete_while_others_write_and_the_run_goes_on(vocoder):
    done, errors = threading.Event(), []

    def repeat(act):
        try:
            while not done.is_set():
                act()
        except BaseException as error:
            errors.append(error)

    def go_on():
        add_captions(vocoder / "previews", {"row_0": {"speaker": "anna"}})
        with (vocoder / "metrics.csv").open("a") as file:
            file.write(((vocoder / "metrics.csv").read_text().splitlines()[-1]) + "\n")
        clip = next((vocoder / "previews").glob("*.wav"))
        with atomic_write(clip) as beside:
            shutil.copyfile(clip, beside)

    write_report(vocoder)
    acts = [lambda: write_report(vocoder), lambda: write_report(vocoder, running=True), go_on]
    threads = [threading.Thread(target=repeat, args=[act]) for act in acts]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert Page(vocoder / "report.html").text.rstrip().endswith("</html>")
            time.sleep(0.01)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not errors and not list(vocoder.glob(".*saving*"))


def test_the_newest_steps_are_kept(tmp_path):
    sounds, images = runs.make_run(tmp_path / "sounds"), runs.make_image_run(tmp_path / "images")
    for step in range(30, 60):
        runs.write_clip(sounds / "previews" / f"step_{step:06d}_0.wav", runs.tone(100, 0.1))
        (images / "previews" / f"step_{step:06d}_0.png").write_bytes(
            (images / "samples" / "image_000.png").read_bytes()
        )
    page = Page(write_report(sounds))
    labels = [each["aria-label"] for each in page.all("figure", "clip")]
    assert labels[0] == "A: step 48" and labels[-1] == "L: step 59" and "18 of the oldest previews" in page.text
    page = Page(write_report(images))
    shown = re.findall(r"<figcaption>(ground truth|step \d+)</figcaption>", page.text)[2:]  # after those of samples
    assert shown == ["ground truth", *(f"step {step}" for step in range(48, 60))]


def test_unknown_targets_are_no_error():
    from wavedil.report.images import _difference

    truth, prediction = np.full((1, 2, 3), 50, np.uint8), np.full((1, 2, 3), 90, np.uint8)
    truth[0, 1] = 40, 80, 160
    with Image.open(io.BytesIO(base64.b64decode(_difference(truth, prediction, False).split(",")[1]))) as picture:
        assert np.asarray(picture.convert("RGB"))[0].tolist() == [[40, 40, 40], [0, 0, 0]]
