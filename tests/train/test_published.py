"""Published data sets in torchaudio's layouts, offline."""

import json
from types import SimpleNamespace

import pytest
import torch

from wavedil.audio import WaveNet, save
from wavedil.audio.data import audio_files
from wavedil.audio.data.published import find_published
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train import AudioData

FILES = {
    "YESNO": [f"waves_yesno/0_0_1_{n}.wav" for n in range(3)],
    "LJSPEECH": [f"LJSpeech-1.1/wavs/LJ001-000{n}.wav" for n in range(3)],
    "VCTK_092": [
        f"VCTK-Corpus-0.92/wav48_silence_trimmed/{speaker}/{speaker}_001_mic{mic}.flac"
        for speaker in ("p225", "p226")
        for mic in (1, 2)
    ],
    "LIBRITTS/dev-clean": [
        f"LibriTTS/dev-clean/{speaker}/{chapter}/{speaker}_{chapter}_000001_000000.wav"
        for speaker, chapter in (("84", "121123"), ("84", "121550"), ("1272", "128104"))
    ],
}
SPEAKERS = {"VCTK_092": ["p225", "p226"], "LIBRITTS/dev-clean": ["1272", "84"]}


def write(root, dataset):
    for index, name in enumerate(FILES[dataset]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        audio_files.write(root / name, 0.5 * torch.sin(torch.arange(900) * 0.01 * (index + 1)).unsqueeze(0), 8000)
    (root / "waves_yesno/README.wav.txt" if dataset == "YESNO" else root / "other.wav").write_text("no sound")


def set_up(root, dataset, **options):
    """The data as a run sets them up."""
    network = WaveNet(channels=8, dilations="1,2", sample_rate=8000, speakers=SPEAKERS.get(dataset, ()))
    data = AudioData(str(root), dataset=dataset, crop=40, **options)
    data.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(network=network), default_root_dir=str(root), global_step=0
    )
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("dataset", FILES)
def test_a_name_finds_the_recordings_and_their_speakers(tmp_path, dataset):
    write(tmp_path, dataset)
    data = set_up(tmp_path, dataset)
    expected = [name for name in FILES[dataset] if "mic1" not in name]
    found = [path.relative_to(tmp_path).as_posix() for path in (*data.train.paths, *data.valid.paths)]
    assert sorted(found) == sorted(expected)
    for names, corpus in ((data.train_conditioning, data.train), (data.valid_conditioning, data.valid)):
        if dataset in SPEAKERS:
            spoken = [SPEAKERS[dataset][number] for number in names["speakers"]]
            assert all(name in path.parts for name, path in zip(spoken, corpus.paths, strict=True))
        else:
            assert names == {}


def test_evaluation_holds_out_what_training_did(tmp_path, capsys):
    write(tmp_path, "VCTK_092")
    data = set_up(tmp_path, "VCTK_092")
    model = save(data.trainer.lightning_module.network, tmp_path / "model")
    ask = ["evaluate", str(model), str(tmp_path), "--dataset", "VCTK_092", "--held-out", "--json"]
    assert main(ask) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["files"], result["count"]) == (len(data.valid), data.valid.lengths.sum())
    assert main([*ask[:4], "VCTK", "--json"]) == 2 and "expected one of YESNO" in capsys.readouterr().err


def test_torchaudio_finds_as_many(tmp_path):
    datasets = pytest.importorskip("torchaudio.datasets", reason="torchaudio does not import beside this torch")
    write(tmp_path, "YESNO")
    write(tmp_path, "LIBRITTS/dev-clean")
    assert len(datasets.YESNO(tmp_path)) == len(find_published("YESNO", tmp_path)[1]) == 3
    assert len(datasets.LIBRITTS(tmp_path, "dev-clean")) == len(find_published("LIBRITTS/dev-clean", tmp_path)[1]) == 3


def test_missing_data_are_downloaded_once(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchaudio.datasets", reason="torchaudio does not import beside this torch")
    calls = []

    def fetch(root, download, **options):
        calls.append((root, download, options))
        write(tmp_path, "LIBRITTS/dev-clean")

    monkeypatch.setattr(datasets, "LIBRITTS", fetch)
    for _ in range(2):
        data = set_up(tmp_path, "LIBRITTS/dev-clean", download=True)
        assert len(data.train) + len(data.valid) == 3
    assert calls == [(str(tmp_path), True, {"url": "dev-clean"})]

    def fail(root, download, **options):
        raise OSError("<urlopen error>\nno route")

    monkeypatch.setattr(datasets, "YESNO", fail)
    with pytest.raises(WavedilError, match="YESNO could not be downloaded to .*: <urlopen error> no route$"):
        set_up(tmp_path, "YESNO", download=True)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("LIBRISPEECH", "'LIBRISPEECH': expected one of YESNO, LJSPEECH"),
        ("LIBRITTS", "'LIBRITTS': expected LIBRITTS/ and one of dev-clean"),
        ("LIBRITTS/clean", "'LIBRITTS/clean': expected LIBRITTS/ and one of dev-clean"),
        ("YESNO/test", "'YESNO/test': expected YESNO alone"),
        ("YESNO", r"waves_yesno has no \*.wav: expected YESNO below .*; or set download"),
    ],
)
def test_unknown_and_missing_data_sets_are_refused_in_one_line(tmp_path, dataset, message):
    with pytest.raises(WavedilError, match=message) as error:
        find_published(dataset, tmp_path)
    assert "\n" not in str(error.value)


def test_a_data_set_needs_a_root(tmp_path):
    with pytest.raises(WavedilError, match="root is not set"):
        find_published("YESNO", None)
    with pytest.raises(WavedilError, match="download is true, but dataset is null"):
        AudioData(str(tmp_path), download=True)
