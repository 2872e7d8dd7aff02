"""Published recordings by the names that ``torchaudio.datasets`` gives them: where they lie, and how to get them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavedil.errors import WavedilError


@dataclass(frozen=True)
class Published:
    """Args:
    folder: of the recordings, below the folder that torchaudio calls ``root``.
    pattern: of the recordings, below that.
    speakers: where the names of their speakers come from; see ``conditioning/speakers.py``. None: one speaker.
    parts: names of its parts, each a folder of its own in ``folder``.
    """

    folder: str
    pattern: str
    speakers: str | None = None
    parts: tuple[str, ...] = ()


_LIBRITTS = ("dev-clean", "dev-other", "test-clean", "test-other", "train-clean-100", "train-clean-360")
PUBLISHED = {
    "YESNO": Published("waves_yesno", "*.wav"),
    "LJSPEECH": Published("LJSpeech-1.1/wavs", "*.wav"),
    # Each sentence was recorded by two microphones; torchaudio's class takes the second as well.
    "VCTK_092": Published("VCTK-Corpus-0.92/wav48_silence_trimmed", "*/*_mic2.flac", "folders"),
    "LIBRITTS": Published("LibriTTS", "*/*/*.wav", "folders", (*_LIBRITTS, "train-other-500")),
}


def find_published(
    dataset: str, root: str | Path | None, download: bool = False
) -> tuple[Path, list[Path], str | None]:
    """The folder of the recordings, the recordings in their order, and the source of their speakers' names.

    Args:
        dataset: a name in PUBLISHED, for one with parts ``LIBRITTS/dev-clean``.
        root: the folder that holds the data set's own, as torchaudio takes it.
        download: fetch what is not there, by torchaudio.

    Raises:
        WavedilError: an unknown name or part; or the recordings are not there, or cannot be fetched.
    """
    name, _, part = dataset.partition("/")
    if name not in PUBLISHED:
        raise WavedilError(f"dataset is {dataset!r}: expected one of {', '.join(PUBLISHED)}, or a folder as root alone")
    layout = PUBLISHED[name]
    if (part or layout.parts) and part not in layout.parts:
        parts = f"{name}/ and one of {', '.join(layout.parts)}" if layout.parts else f"{name} alone"
        raise WavedilError(f"dataset is {dataset!r}: expected {parts}")
    if root is None:
        raise WavedilError(
            f"dataset is {dataset!r}, but root is not given: expected the folder it is in or is to be in"
        )
    folder = Path(root) / layout.folder / part
    if download and not folder.is_dir():
        _fetch(name, Path(root), {"url": part} if part else {})
    paths = sorted(folder.glob(layout.pattern))
    if not paths:
        raise WavedilError(
            f"{folder} holds no {layout.pattern}: expected {dataset} below {root}; set download to true to fetch it"
        )
    return folder, paths, layout.speakers


def _fetch(name: str, root: Path, options: dict[str, str]) -> None:
    try:
        from torchaudio import datasets
    except (ImportError, OSError, RuntimeError) as error:  # the last two: beside a torch that it was not built for
        raise WavedilError(
            f"{name} is fetched by torchaudio, which cannot be imported ({type(error).__name__}): pip install "
            "'wavedil[train]'"
        ) from None
    root.mkdir(parents=True, exist_ok=True)
    try:
        getattr(datasets, name)(root=str(root), download=True, **options)
    except (OSError, RuntimeError) as error:
        raise WavedilError(f"{name} could not be fetched to {root}: {' '.join(str(error).split())[:200]}") from None
