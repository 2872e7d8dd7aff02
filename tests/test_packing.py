"""Packed data sets: the same sound, arrays and images as the files; restarts; damage; URLs."""

import os
import shutil
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader, Subset

from wavedil.arrays import open_array
from wavedil.audio.data import audio_files
from wavedil.audio.data.check import check_recordings
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import RandomCrops
from wavedil.audio.data.recording_files import find_recordings
from wavedil.audio.data.split import split_files
from wavedil.audio.data.streams import read_blocks
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.packing import pack
from wavedil.shards import INDEX, find_packed, is_folder

RATE = 8000
CODINGS = ["wav PCM_16", "wav PCM_U8", "wav PCM_24", "wav FLOAT", "wav DOUBLE", "wav ULAW", "flac PCM_16"]
CODINGS += ["flac PCM_S8", "flac PCM_24", "ogg VORBIS", "aiff PCM_16", "mp3 MPEG_LAYER_III", "w64 PCM_32"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Files of many codings in two folders, one with features."""
    folder, generator = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for number, coding in enumerate(CODINGS):
        suffix, subtype = coding.split()
        path = folder / f"speaker{number % 2}" / f"{number:02d} é.{suffix}"
        path.parent.mkdir(exist_ok=True)
        sound = generator.uniform(-0.5, 0.5, (3000 + 700 * number, 1 + number % 2))
        soundfile.write(path, sound, (RATE, 2 * RATE)[number % 3 == 0], subtype)
    np.save(folder / "speaker0" / "00 é.npy", np.arange(12.0).reshape(3, 4))
    (folder / "speaker0" / "cover.txt").write_text("not packed")
    return folder


@pytest.fixture(scope="module")
def packed(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "shards"
    result = pack(recordings, folder, shard_bytes=40_000)
    assert result.files == len(CODINGS) + 1 == result.made and result.shards > 2
    return folder


def corpora(*folders):
    for folder in folders:
        split = split_files(audio_files.list_audio_files(folder))
        yield [Corpus(part, RATE, preload_bytes=0) for part in (split.train, split.validation)]


def test_packed_sound_equals_the_files_bit_for_bit(recordings, packed):
    files, again = (audio_files.list_audio_files(folder) for folder in (recordings, packed))
    assert [path.relative_to(recordings) for path in files] == [path.relative_to(packed) for path in again]
    for one, two in zip(files, again, strict=True):
        first, second = audio_files.info(one), audio_files.info(two)
        assert [first.frames, first.sample_rate, first.channels] == [second.frames, second.sample_rate, second.channels]
        for options in ({"mono": False}, {"start": 1500, "frames": 900}, {"sample_rate": 11025}):
            np.testing.assert_array_equal(audio_files.read(one, **options)[0], audio_files.read(two, **options)[0])


def test_crops_of_packed_sound_are_those_of_the_files(recordings, packed):
    """Also in worker processes, which open their own shards."""
    (train, valid), (packed_train, packed_valid) = corpora(recordings, packed)
    assert list(map(len, (train, valid))) == list(map(len, (packed_train, packed_valid)))
    items = [RandomCrops(corpus, 500, context=100, seed=3) for corpus in (train, packed_train)]
    loader = DataLoader(Subset(items[1], range(40)), batch_size=None, num_workers=2)
    for index, item in enumerate(loader):
        assert all(torch.equal(item[key], items[0][index][key]) for key in ("codes", "mask"))


def test_features_are_packed(recordings, packed):
    with open_array(packed / "speaker0" / "00 é.npy", "features", ("channels", "frames")) as array:
        assert array.read().tolist() == np.arange(12.0).reshape(3, 4).tolist()
        assert array.columns(1, 3).tolist() == np.arange(12.0).reshape(3, 4)[:, 1:3].tolist()
    assert not find_packed(packed / "speaker0" / "cover.txt")
    assert is_folder(packed / "speaker0") and not is_folder(packed / "speaker2")


def test_images_are_packed(tmp_path):
    from wavedil.vision.data.dataset import SegmentationDataset, find_label_scheme
    from wavedil.vision.data.image_crops import RandomImageCrops
    from wavedil.vision.data.images import write_image
    from wavedil.vision.data.pairs import split_pairs

    generator = np.random.default_rng(0)
    for part, number in (("train", 3), ("train", 4), ("val", 5)):
        write_image(tmp_path / f"data/{part}/images/{number}.png", generator.integers(0, 256, (50, 60, 3), np.uint8))
        write_image(tmp_path / f"data/{part}/masks/{number}.png", generator.integers(0, 2, (50, 60), np.uint8))
    pack(tmp_path / "data", tmp_path / "shards", shard_bytes=10_000)
    crops = []
    for root in ("data", "shards"):
        train, valid, _ = split_pairs(tmp_path / root)
        assert len(train) == 2 and len(valid) == 1
        crops.append(RandomImageCrops(SegmentationDataset(train, find_label_scheme(train)), (40, 40)))
    for index in range(3):
        one, two = (each[index] for each in crops)
        assert torch.equal(one["image"], two["image"]) and torch.equal(one["labels"], two["labels"])


def test_paired_recordings_are_packed(recordings, tmp_path):
    for side in ("input", "target"):
        shutil.copytree(recordings / "speaker1", tmp_path / "data" / side)
    pack(tmp_path / "data", tmp_path / "shards")
    pairs = [[(r.input, r.target) for r in find_recordings(tmp_path / root)] for root in ("data", "shards")]
    relative = [
        [path.relative_to(tmp_path / root) for pair in found for path in pair]
        for root, found in zip(("data", "shards"), pairs, strict=True)
    ]
    assert relative[0] == relative[1] and len(relative[0]) == 2 * (len(CODINGS) // 2)


def test_other_programs_can_unpack_shards(packed, recordings, tmp_path):
    for shard in packed.glob("*.tar"):
        shutil.unpack_archive(shard, tmp_path, filter="data")
    assert len(audio_files.list_audio_files(tmp_path)) == len(CODINGS)
    flac = next(recordings.rglob("*.flac"))
    copy = tmp_path / flac.relative_to(recordings).parent / f"{flac.name}.wav"
    np.testing.assert_array_equal(audio_files.read(flac)[0], audio_files.read(copy)[0])


def test_an_interrupted_pack_continues(recordings, packed, tmp_path):
    folder, calls = tmp_path / "shards", []

    def interrupt(done, total):
        calls.append(done)
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(recordings, folder, shard_bytes=40_000, progress=interrupt)
    assert not (folder / INDEX).exists()
    with pytest.raises(WavedilError, match="is not completely packed; repeat wavedil pack"):
        audio_files.list_audio_files(folder)
    calls.clear()
    assert 0 < pack(recordings, folder, shard_bytes=40_000, progress=lambda *n: calls.append(n[0])).made < len(CODINGS)
    assert calls == sorted(calls) and calls[-1] == len(CODINGS) + 1
    for path in packed.iterdir():
        if path.is_file():
            assert path.read_bytes() == (folder / path.name).read_bytes() or path.name == "manifest.jsonl"
    (folder / "000001.tar").write_bytes(b"")  # a lost shard is written again
    assert pack(recordings, folder, shard_bytes=40_000).made > 0
    assert (folder / "000001.tar").read_bytes() == (packed / "000001.tar").read_bytes()


def test_exclude_and_single_files(recordings, tmp_path):
    assert pack(recordings, tmp_path / "some", exclude="speaker1/").files == (len(CODINGS) + 1) // 2 + 1
    file = next(recordings.rglob("*.flac"))
    pack(file, tmp_path / "one")
    assert audio_files.list_audio_files(tmp_path / "one") == [tmp_path / "one" / file.name]
    assert audio_files.list_audio_files(tmp_path / "one" / file.name) == [tmp_path / "one" / file.name]


def test_wrong_arguments(recordings, packed, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.wav").write_bytes(b"RIFF")
    for words, message in [
        ([tmp_path / "none", tmp_path / "a"], "does not exist"),
        ([tmp_path / "empty", tmp_path / "a"], "has no audio files and no images"),
        ([recordings, tmp_path / "used"], "has other files, e.g. notes.txt"),
        ([recordings, tmp_path / "used" / "notes.txt"], "is a file"),
        ([recordings, recordings / "shards"], "is in the input folder"),
        ([packed, tmp_path / "a"], "is packed already"),
        ([recordings, packed], "has results with another batch"),
        ([recordings, "s3://bucket/shards"], "is a URL"),
        ([recordings, tmp_path / "a", "--exclude", "."], "matches all"),
        ([recordings, tmp_path / "a", "--exclude", "("], "not a regular expression"),
        ([recordings, tmp_path / "a", "--shard-mb", "0"], "expected a positive integer"),
        ([tmp_path / "broken", tmp_path / "b"], "not a readable audio file"),
    ]:
        assert main(["pack", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and error.startswith("error: "), error
        assert not (tmp_path / "a").exists() and (tmp_path / "used" / "notes.txt").read_text() == "mine"
    assert not list((tmp_path / "b").glob("*.tar")) and not (tmp_path / "b" / INDEX).exists()


def copy_of(packed: Path, folder: Path) -> Path:
    """The packed data at another place, without the records."""
    folder.mkdir()
    for path in [packed / INDEX, *packed.glob("*.tar")]:
        shutil.copy(path, folder)
    return folder


def test_damaged_shards(packed, tmp_path):
    folder = copy_of(packed, tmp_path / "copy")
    files = audio_files.list_audio_files(folder)
    damaged = find_packed(files[4])
    shard = folder / f"{damaged.shard:06d}.tar"
    data = bytearray(shard.read_bytes())
    data[damaged.offset + 100] ^= 1
    shard.write_bytes(data)
    assert check_recordings(folder).paths(["broken"]) == [str(files[4])]
    with pytest.raises(WavedilError, match=rf"{files[4].name}: its bytes in {shard.name} are damaged"):
        list(read_blocks(files[4], 1000))
    corpus = Corpus(files, RATE, preload_bytes=0)
    crops = RandomCrops(corpus, 500, max_skipped=len(files) - 1)
    os.truncate(shard, damaged.offset)
    assert len([crops[index] for index in range(30)]) == 30 and 0 < len(crops.skipped) < len(files)
    with pytest.raises(WavedilError, match=rf"{shard.name} is too short.*max_skipped"):
        [RandomCrops(corpus, 500)[index] for index in range(30)]
    with pytest.raises(WavedilError, match=rf"{shard.name} has \d+ bytes, not \d+: copy it again"):
        audio_files.list_audio_files(folder)
    shard.unlink()
    with pytest.raises(WavedilError, match=rf"{shard.name} is missing"):
        audio_files.list_audio_files(folder)


def test_damaged_indexes_are_refused(packed, tmp_path):
    from safetensors.numpy import load, save

    folder = copy_of(packed, tmp_path / "copy")
    index = (folder / INDEX).read_bytes()
    generator = np.random.default_rng(0)
    for data in [b"", index[:50], index[:-1], *(damage(load(index), generator) for _ in range(60))]:
        (folder / INDEX).write_bytes(data if isinstance(data, bytes) else save(data))
        with pytest.raises(WavedilError, match=f"{INDEX} is not an index of packed data|has .* bytes, not"):
            audio_files.list_audio_files(folder)


def damage(arrays, generator):
    """An index with a value that is out of range, an array that is too short or missing, or of another type."""
    name = str(generator.choice([name for name in sorted(arrays) if name not in ("names", "crc", "floating", "rate")]))
    array = arrays[name].copy()
    match generator.integers(4):
        case 0:
            del arrays[name]
            return arrays
        case 1:
            array = array[:-1]
        case 2:
            array = array.astype(np.float32)
        case 3:
            array[int(generator.integers(len(array)))] = int(generator.choice([-1, 2**62]))
    return arrays | {name: array}


class _Ranges(BaseHTTPRequestHandler):
    """Serves parts of files, like the storage of a cloud; complete files if ``has_ranges`` is False."""

    folder: Path
    has_ranges, requests, protocol_version = True, 0, "HTTP/1.1"

    def do_GET(self):
        type(self).requests += 1
        path, status = self.folder / self.path.lstrip("/"), 200
        data = path.read_bytes() if path.is_file() else b""
        if not path.is_file():
            status = 404
        elif "Range" in self.headers and self.has_ranges:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            data, status = data[int(first) : int(last) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(recordings, tmp_path):
    pack(recordings, tmp_path / "shards")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Ranges,), {"folder": tmp_path / "shards"}))
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_crops_from_a_url_are_those_of_the_files(recordings, server):
    url = Path(f"http://127.0.0.1:{server.server_port}/")
    (train, valid), (remote_train, remote_valid) = corpora(recordings, url)
    np.testing.assert_array_equal(valid.lengths, remote_valid.lengths)
    items = [RandomCrops(corpus, 500, seed=3) for corpus in (train, remote_train)]
    assert all(torch.equal(items[0][index]["codes"], items[1][index]["codes"]) for index in range(8))
    server.RequestHandlerClass.requests = 0
    in_memory = Corpus(audio_files.list_audio_files(url), RATE)
    assert in_memory.preloaded and len(in_memory) == len(CODINGS)
    assert server.RequestHandlerClass.requests <= 3  # the index, the first file, and the others in one piece
    assert audio_files.list_audio_files(url / "speaker0")[0].name == "00 é.wav"


def test_errors_of_urls(server, monkeypatch, capsys):
    monkeypatch.setattr("wavedil.shards._PAUSE", 0)
    url = f"http://127.0.0.1:{server.server_port}"
    assert main(["check", f"{url}/none"]) == 2
    assert "does not exist" in capsys.readouterr().err
    with pytest.raises(WavedilError, match="http://127.0.0.1:9/none/index.safetensors cannot be read: "):
        audio_files.list_audio_files("http://127.0.0.1:9/none")
    file = audio_files.list_audio_files(Path(url))[0]
    server.RequestHandlerClass.has_ranges = False
    with pytest.raises(WavedilError, match="the server sends complete files, not parts"):
        audio_files.read(file)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(WavedilError, match=r"needs fsspec: (uv )?pip install .*\[shards\]'"):
        audio_files.list_audio_files(Path(url))
