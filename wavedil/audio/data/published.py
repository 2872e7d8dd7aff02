"""Published data sets by their names in ``torchaudio.datasets``, and the recordings that an evaluation uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wavedil.audio.data.audio_files import list_audio_files
from wavedil.audio.data.split import Piece, split_files
from wavedil.errors import WavedilError, one_of
from wavedil.extras import install_extra
from wavedil.files import walk_files


@dataclass(frozen=True)
class Published:
    """Layout of a data set.

    Args:
        folder: folder of the recordings, below torchaudio's ``root``.
        pattern: glob pattern of the recordings in ``folder``.
        speakers: source of the speaker names, see :func:`wavedil.audio.conditioning.speakers.speaker_source`; None for
            a single speaker.
        parts: names of the parts, each a subfolder of ``folder``.
    """

    folder: str
    pattern: str
    speakers: str | None = None
    parts: tuple[str, ...] = ()


_LIBRITTS = ("dev-clean", "dev-other", "test-clean", "test-other", "train-clean-100", "train-clean-360")
PUBLISHED = {
    "YESNO": Published("waves_yesno", "*.wav"),
    "LJSPEECH": Published("LJSpeech-1.1/wavs", "*.wav"),
    # Two microphones recorded each sentence; torchaudio's class uses the second, too.
    "VCTK_092": Published("VCTK-Corpus-0.92/wav48_silence_trimmed", "*/*_mic2.flac", "folders"),
    "LIBRITTS": Published("LibriTTS", "*/*/*.wav", "folders", (*_LIBRITTS, "train-other-500")),
}


def find_published(
    dataset: str, root: str | Path | None, download: bool = False
) -> tuple[Path, list[Path], str | None]:
    """Lists the recordings of a published data set.

    Args:
        dataset: a name in ``PUBLISHED``; with a part, e.g. ``LIBRITTS/dev-clean``.
        root: the folder that contains the data set's folder, as torchaudio's ``root``.
        download: download missing data with torchaudio.

    Returns:
        The folder of the recordings, the sorted recordings, and the source of the speaker names.

    Raises:
        WavedilError: the name or part is unknown, or the recordings are missing or cannot be downloaded.
    """
    name, _, part = dataset.partition("/")
    if name not in PUBLISHED:
        raise WavedilError(f"dataset is {dataset!r}: expected {one_of(dataset, PUBLISHED)}; or set only root")
    layout = PUBLISHED[name]
    if (part or layout.parts) and part not in layout.parts:
        parts = f"{name}/ and one of {', '.join(layout.parts)}" if layout.parts else f"{name} alone"
        raise WavedilError(f"dataset is {dataset!r}: expected {parts}")
    if root is None:
        raise WavedilError(f"dataset is {dataset!r}, but root is not set: expected the folder that contains it")
    folder = Path(root) / layout.folder / part
    if download and not folder.is_dir():
        _download(name, Path(root), {"url": part} if part else {})
    depth = layout.pattern.count("/") + 1
    listed = walk_files(folder, (Path(layout.pattern).suffix,)) if folder.is_dir() else []
    paths = [path for path in listed if path.match(layout.pattern) and len(path.relative_to(folder).parts) == depth]
    if not paths:
        raise WavedilError(f"{folder} has no {layout.pattern}: expected {dataset} below {root}; or set download")
    return folder, paths, layout.speakers


def recordings_to_evaluate(
    data: str | Path,
    dataset: str | None = None,
    held_out: bool = False,
    validation: str | None = None,
    exclude: str | None = None,
) -> tuple[Path, Sequence[Path | Piece], str | None]:
    """The recordings of an evaluation.

    Args:
        data: an audio file, a folder that is searched for them, or the ``root`` of ``dataset``.
        dataset: see :func:`find_published`.
        held_out: only those that recipes hold out.
        validation, exclude: see :func:`wavedil.audio.data.split.split_files`.

    Returns:
        The folder of the recordings, the recordings, and the source of the speaker names.
    """
    data = Path(data)
    root, speakers = data.parent if data.is_file() else data, None
    if dataset is not None:
        root, files, speakers = find_published(dataset, data)
    else:
        files = [data] if data.is_file() else list_audio_files(data)
    if held_out or validation or exclude:
        files = split_files(files, validation=validation, exclude=exclude).validation
    return root, files, speakers


def _download(name: str, root: Path, options: dict[str, str]) -> None:
    try:
        from torchaudio import datasets
    except (ImportError, OSError, RuntimeError) as error:  # the last two: built for another torch version
        raise WavedilError(
            f"download of {name} needs torchaudio, which fails ({type(error).__name__}): {install_extra('train')}"
        ) from None
    root.mkdir(parents=True, exist_ok=True)
    try:
        getattr(datasets, name)(root=str(root), download=True, **options)
    except (OSError, RuntimeError) as error:
        raise WavedilError(f"{name} could not be downloaded to {root}: {' '.join(str(error).split())[:200]}") from None
