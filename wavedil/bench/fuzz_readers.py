"""Targets of ``wavedil bench fuzz``: functions that write a valid file, and functions that read its mutations."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from wavedil.errors import WavedilError
from wavedil.vision.data.images import read_image, read_mask, read_target, write_image, write_labels, write_values


def _sounds(folder: Path) -> None:
    from wavedil.audio.data.audio_files import write

    sound = 0.5 * np.sin(np.arange(2 * 1500).reshape(2, 1500) / 9)
    for name in ("a.wav", "b.flac", "c.ogg", "d.mp3", "e.aiff", "f.au", "g.w64", "h.caf"):
        write(folder / name, sound, 8000)
    for name, subtype in (("i.wav", "FLOAT"), ("j.wav", "IMA_ADPCM"), ("k.wav", "ULAW"), ("l.caf", "ALAC_16")):
        write(folder / name, sound[0], 8000, subtype)


def _read_sound(path: Path) -> None:
    from wavedil.audio.data.audio_files import info, read

    info(path), read(path, sample_rate=6000), read(path, start=700, frames=100)


def _images(folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (13, 17, 3)).astype(np.uint8)
    for suffix in ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm"):
        write_image(folder / f"a.{suffix}", image)


def _masks(folder: Path) -> None:
    labels = (np.arange(60).reshape(6, 10) % 3).astype(np.uint8)
    write_labels(folder / "a.png", labels, [(0, 0, 0), (255, 0, 0), (0, 255, 0)])
    write_values(folder / "b.png", labels * 1.5 + 1, 0.01)
    np.save(folder / "c.npy", labels)


def _read_masks(path: Path) -> None:
    refused = []
    for read in (lambda: read_mask(path, False), lambda: read_mask(path, True), lambda: read_target(path, 0.01)):
        try:
            read()
        except WavedilError as error:
            refused.append(error)
    if len(refused) == 3:
        raise refused[0]


def _features(folder: Path) -> None:
    np.save(folder / "a.npy", np.ones((4, 9), np.float32))
    np.save(folder / "b.npy", np.asfortranarray(np.ones((4, 9))))


def _read_features(path: Path) -> None:
    from wavedil.audio.data.feature_files import read_features

    read_features(path, 4)


def _rolls(folder: Path) -> None:
    from scipy.io import savemat

    pieces = np.empty((1, 2), object)
    pieces[0, 0], pieces[0, 1] = np.eye(12, 88), np.eye(9, 88)
    for name, compressed in (("a.mat", False), ("b.mat", True)):
        parts = {"traindata": pieces, "validdata": pieces, "testdata": pieces}
        savemat(folder / name, parts, do_compression=compressed)


def _read_rolls(path: Path) -> None:
    from wavedil.audio.piano_rolls import read_rolls

    read_rolls(path)


def _models(folder: Path) -> None:
    from wavedil.audio import Effect, WaveNet
    from wavedil.vision import Conv1x1Head, Segmenter, SmallBackbone
    from wavedil.weights import save

    save(WaveNet(4, 4, "1,2", num_codes=8, sample_rate=8000), folder / "a")
    save(Effect(4, 4, "1,2", sample_rate=8000, knobs={"drive": (0.0, 1.0)}), folder / "b")
    save(Segmenter(SmallBackbone(4, 4), Conv1x1Head(4, 2), num_classes=2, classes=["x", "y"]), folder / "c")


def _read_model(path: Path) -> None:
    from wavedil.weights import load

    load(path.parent)


def _foreign(folder: Path) -> None:
    from safetensors.torch import save_file

    from wavedil.audio.models.nam import NAM, LayerArray
    from wavedil.interop.nam import write_nam

    write_nam(NAM([LayerArray(1, 4, 1, "1,2", head_bias=True)], sample_rate=8000), folder / "a.nam")
    sizes = {"in_layers.0": (4, 2, 3), "in_layers.1": (4, 2, 3), "res_skip_layers.0": (4, 2, 1)}
    sizes["res_skip_layers.1"] = (2, 2, 1)
    tensors = {f"{name}.weight": torch.ones(size) for name, size in sizes.items()}  # of a WN of VITS
    tensors |= {f"{name}.bias": torch.ones(size[0]) for name, size in sizes.items()}
    torch.save(tensors, folder / "b.pth")
    torch.save({"state_dict": tensors, "epoch": 3}, folder / "c.ckpt")
    torch.save(tensors, folder / "d.pt", _use_new_zipfile_serialization=False)
    save_file(tensors, folder / "e.safetensors")
    layer = {
        "type": "lstm",
        "activation": "",
        "shape": [None, None, 1],
        "weights": [[[1.0] * 4], [[0.5] * 4], [0.1] * 4],
    }
    dense = {"type": "dense", "shape": [None, None, 1], "weights": [[[1.0]], [0.0]], "activation": "tanh"}
    content = {"in_shape": [None, None, 1], "layers": [layer, dense], "in_skip": 1, "metadata": {"samplerate": "48000"}}
    (folder / "f.json").write_text(json.dumps(content), encoding="utf-8")
    data = {"model": "SimpleRNN", "input_size": 2, "skip": 1, "unit_type": "GRU", "num_layers": 1, "hidden_size": 1}
    weights = {"rec.weight_ih_l0": [[1.0, 0.1]] * 3, "rec.weight_hh_l0": [[0.5]] * 3, "rec.bias_ih_l0": [0.1] * 3}
    weights |= {"rec.bias_hh_l0": [0.2] * 3, "lin.weight": [[1.0]], "lin.bias": [0.0]}
    (folder / "g.json").write_text(json.dumps({"model_data": data, "state_dict": weights}), encoding="utf-8")


def _read_foreign(path: Path) -> None:
    from wavedil.interop.formats import convert

    convert(path)


def _checkpoints(folder: Path) -> None:
    from wavedil.train.checkpoints import SafeCheckpointIO

    content = {"global_step": 3, "state_dict": {"a": torch.ones(30)}, "callbacks": {"x": {"best": 1.5}}}
    SafeCheckpointIO().save_checkpoint(content, folder / "a.ckpt")


def _read_checkpoint(path: Path) -> None:
    from wavedil.train.checkpoints import newest_readable

    newest_readable([path])


def _recipes(folder: Path) -> None:
    from wavedil.bench.kills import RECIPES

    for name, recipe in RECIPES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def _read_recipe(path: Path) -> None:
    from wavedil.train.recipes import module_class, read_recipe

    read_recipe(path), module_class(path, ["wavedil"])


def _tables(folder: Path) -> None:
    rows = "input,target,drive,held_out\nx.wav,y.wav,0.5,1\nx.wav,z.wav,0.75,\n"
    (folder / "recordings.csv").write_text(rows, encoding="utf-8")
    (folder / "speakers.csv").write_text("file,speaker\na/1.wav,anna\nb/2.wav,bob\n", encoding="utf-8")
    (folder / "metrics.csv").write_text("step,seconds,train_loss\n10,1.5,0.25\n20,3.0,nan\n", encoding="utf-8")
    (folder / "restarts.csv").write_text("step,restored_step,rate_factor,reason\n10,5,0.5,nan\n", encoding="utf-8")
    (folder / "list.txt").write_text("a/1.wav\n../b/2.wav\n", encoding="utf-8")
    (folder / "config.yaml").write_text("model: {}\n", encoding="utf-8")


def _read_table(path: Path) -> None:
    from wavedil.audio.conditioning.speakers import speaker_source
    from wavedil.audio.data.recording_files import find_recordings
    from wavedil.files import excluded_paths
    from wavedil.report import write_report

    if path.name == "recordings.csv":
        find_recordings(path)
    elif path.name == "speakers.csv":
        speaker_source(str(path))(Path("a/1.wav"))
    elif path.name == "list.txt":
        excluded_paths([path.parent / "a" / "1.wav"], f"@{path}")
    else:
        write_report(path.parent)


def _batches(folder: Path) -> None:
    _work(folder)


def _work(folder: Path) -> None:
    from wavedil.batches import Batches

    def work(items: range) -> list[dict[str, Any]]:
        for item in items:
            (folder / f"{item}.txt").write_text("result")
        return [{"item": item, "files": {"text": folder / f"{item}.txt"}} for item in items]

    Batches(folder, 4, 2, {"work": "fuzz"}).run(work)


def _packed(folder: Path) -> None:
    from wavedil.audio.data.audio_files import write
    from wavedil.packing import pack

    for name in ("a.wav", "b/c.flac"):
        write(folder.parent / "unpacked" / name, np.sin(np.arange(900) / 9), 8000)
    pack(folder.parent / "unpacked", folder)
    shutil.rmtree(folder.parent / "unpacked")


def _read_packed(path: Path) -> None:
    from wavedil.audio.data.audio_files import list_audio_files, read

    shards = next(folder for folder in path.parents if (folder / "index.safetensors").exists())
    for name in list_audio_files(shards):
        read(name)


#: Functions that write valid files to a folder, and that read one of them after it was mutated.
READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "sound": (_sounds, _read_sound),
    "images": (_images, read_image),
    "masks": (_masks, _read_masks),
    "features": (_features, _read_features),
    "rolls": (_rolls, _read_rolls),
    "models": (_models, _read_model),
    "foreign": (_foreign, _read_foreign),
    "checkpoints": (_checkpoints, _read_checkpoint),
    "recipes": (_recipes, _read_recipe),
    "tables": (_tables, _read_table),
    "batches": (_batches, lambda path: _work(path.parents[path.parent.name == "batches"])),
    "packed": (_packed, _read_packed),
}
