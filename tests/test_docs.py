"""README, docs and notebooks are true: their code runs, their commands parse, their links lead somewhere."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import wavedil
from wavedil.audio import Effect, LogMel, SpectralGenerator, Vocoder, WaveNet, save, write
from wavedil.audio.models.tcn import TCN
from wavedil.cli import build_parser, main
from wavedil.errors import WavedilError
from wavedil.packaged import find_model
from wavedil.report.run import Run
from wavedil.vision import Conv1x1Head, PixelUnshuffle, Segmenter, VolumeSegmenter

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = {DOCS / "_build", DOCS / "project"}
PAGES = [path for folder in (".", "recipes") for path in sorted((ROOT / folder).glob("*.md"))]
PAGES += [path for path in sorted(DOCS.rglob("*.md")) if GENERATED.isdisjoint(path.parents)]
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of a page, and of each code cell of a notebook."""
    if page.suffix == ".md":
        return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.S | re.M)
    cells = [cell for cell in json.loads(page.read_text())["cells"] if cell["cell_type"] == "code"]
    texts = ["".join(cell["source"]) for cell in cells]
    return [("bash", text[7:]) if text.startswith("%%bash\n") else ("python", text) for text in texts]


def commands(text: str) -> list[list[str]]:
    """Words of the ``wavedil`` commands of a block."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("wavedil ")]


TO_RUN = [page for page in PAGES + NOTEBOOKS if any(language in ("python", "bash") for language, _ in blocks(page))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for module in [key for key, value in sys.modules.items() if str(tmp_path) in str(getattr(value, "__file__", ""))]:
        del sys.modules[module]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and intervals
@pytest.mark.parametrize("page", TO_RUN, ids=map(name, TO_RUN))
def test_code_runs_in_order(page, folder):
    """A block whose first line is ``# NAME.py``, ``# NAME.yaml`` or ``/* NAME.c */`` is saved as this file."""
    names: dict = {"__name__": "__main__"}
    for language, text in blocks(page):
        file = re.match(r"(?:# |/\* )(\w+\.(py|yaml|c))(?: \*/)?\n", text)
        if file:
            (folder / file[1]).write_text(text)
        elif language == "python":
            exec(compile(text, name(page), "exec"), names)
        elif language == "bash":
            assert all(line.startswith(("wavedil ", "cc ", " ")) for line in text.splitlines()), text
            for words in commands(text):
                assert main(words) == 0, shlex.join(words)
            for line in text.splitlines():
                if line.startswith("cc "):
                    subprocess.run(shlex.split(line), check=True)


PARSED = [
    pytest.param(words, id=f"{name(page)}: {shlex.join(words)}")
    for page in PAGES
    for language, text in blocks(page)
    for words in commands(text)
    if not language
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with models in ``runs/NAME/model``, of the kind that the recipe of this name trains."""
    folder = tmp_path_factory.mktemp("docs")
    for recipe in ("speech", "wavenet_vocoder", "digits", "speakers", "music"):
        save(WaveNet(4, 4, "1"), folder / "runs" / recipe / "model")
    save(Vocoder(LogMel(8000, 4), SpectralGenerator(4, "1", mels=4, sample_rate=8000)), folder / "runs/vocoder/model")
    for recipe in ("tiny", "frontend", "context", "joint", "isbi", "camvid"):
        save(Segmenter(PixelUnshuffle(4), Conv1x1Head(48, 2), num_classes=2), folder / "runs" / recipe / "model")
    save(VolumeSegmenter(2, 1, 4, [1]), folder / "runs" / "volumes" / "model")
    save(Effect(4, 4, "1"), folder / "runs" / "amp" / "model")
    save(TCN(88, 88, 4, "1"), folder / "runs" / "jsb" / "model")
    return folder


@pytest.mark.parametrize("words", PARSED)
def test_commands_parse(monkeypatch, runs, words):
    monkeypatch.chdir(runs)
    arguments, unknown = build_parser(words).parse_known_args(words)
    if words[0] in ("evaluate", "segment") and arguments.model != "MODEL":
        assert Path(find_model(arguments.model), "config.json").is_file(), (
            f"add a model to the fixture: {arguments.model}"
        )
    assert not unknown or words[0] in ("train", "search") or "-c" in words  # keys of recipes


def test_options_of_evaluate_are_checked_by_the_commands_above(monkeypatch, runs):
    monkeypatch.chdir(runs)
    words = "evaluate runs/amp/model pedal.csv --crf".split()
    assert build_parser(words).parse_known_args(words)[1] == ["--crf"]


def test_ci_runs_the_readmes_test_command():
    command = "pip install uv && uv run pytest"
    assert command in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command


@pytest.fixture(scope="module")
def listen():
    return runpy.run_path(str(DOCS / "listen.py"))


def listed(page: Path) -> set[str]:
    return set(re.findall(r"\]\(static/listen/(.*?)\)", page.read_text()))


def test_the_page_listen_has_each_clip(listen, tmp_path):
    found = {path.name for path in (DOCS / "static" / "listen").iterdir()}
    assert listed(DOCS / "listen.md") == found
    listen["main"](tmp_path / "listen.md", seconds=0.3, images=1)
    assert {path.name for path in (tmp_path / "static" / "listen").iterdir()} < found
    assert sum(path.stat().st_size for path in (DOCS / "static" / "listen").iterdir()) < 3e6


@pytest.mark.parametrize(("root", "recordings"), [("null", False), ("others", False), ("others", True)])
def test_recordings_of_others_are_on_the_page_listen_only_by_choice(listen, tmp_path, root, recordings):
    run = make_run(tmp_path / "runs" / "digits", root)
    section = listen["run_section"](Run(run), tmp_path, recordings, 0.1)
    complete = root == "null" or recordings
    assert ("digits_0_recording.mp3" in section) == complete == (tmp_path / "digits_0_recording.mp3").exists()
    assert "| ann, model |" in section and (tmp_path / "digits_0_model.mp3").exists()
    assert "12 parameters, trained for 40 steps in 90 s (2 CPU cores, 1 thread). On held-out data: bits" in section
    (run / "samples" / "sample_000_recording.wav").rename(run / "samples" / "sample_000_original.wav")
    if not complete:
        with pytest.raises(WavedilError, match="samples that are made of recordings need --recordings"):
            listen["run_section"](Run(run), tmp_path, recordings, 0.1)


def make_run(folder: Path, root: str) -> Path:
    """A run folder with a model, a sample and a recording."""
    save(WaveNet(4, 4, "1", num_codes=16, sample_rate=8000), folder / "model")
    (folder / "config.yaml").write_text(f"data: {{init_args: {{root: {root}}}}}\n")
    about = {"parameters": "12", "machine": "cpu: x; Linux, 2 CPU cores, 1 thread"}
    (folder / "about.json").write_text(json.dumps(about))
    (folder / "metrics.csv").write_text("step,seconds,valid_bits\n40,90,3.5\n")
    for part in ("", "_recording"):
        write(folder / "samples" / f"sample_000{part}.wav", np.zeros((1, 900), np.float32), 8000)
    (folder / "samples" / "captions.json").write_text(json.dumps({"row_0": {"speaker": "ann"}}))
    return folder


def test_the_citation_has_the_version():
    assert f"\nversion: {wavedil.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub's links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=map(name, PAGES))
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{link}: no such file"
        assert not heading or heading in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("package", ["wavedil", "audio", "vision", "train"])
def test_the_reference_has_every_public_name(package):
    path = "wavedil" if package == "wavedil" else f"wavedil.{package}"
    reference = (DOCS / "api" / f"{package}.md").read_text()
    reference += (DOCS / "api" / "audio.md").read_text()  # save and load, which vision has too
    missing = [public for public in import_module(path).__all__ if not re.search(rf":: .*\.{public}$", reference, re.M)]
    assert missing in ([], ["__version__"])


def mapped_folders() -> set[str]:
    """The folders of the map in CONTRIBUTING.md, relative to the root; each level is indented by two spaces."""
    folders, path = set(), []
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for line in text[text.index("```text\nwavedil/") :].split("```")[1].splitlines()[1:]:
        name = line.split()[0] if line.strip() else ""
        if name.endswith("/"):
            path = path[: (len(line) - len(line.lstrip())) // 2] + [name.rstrip("/")]
            folders.add("/".join(path))
    return folders


def test_the_map_names_every_folder_of_the_package_and_no_other():
    package = Path(wavedil.__file__).parent
    folders = {path.parent.relative_to(package.parent).as_posix() for path in package.rglob("*.py")}
    assert folders == {folder for folder in mapped_folders() if folder.split("/")[0] == "wavedil"}
