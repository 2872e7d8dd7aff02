"""Messages of errors are one printable line, whatever is in the names of files."""

import pytest

from wavedil.audio.data.audio_files import read
from wavedil.errors import WavedilError, printable


def test_control_characters_and_bytes_that_are_not_text_are_escaped(tmp_path):
    assert printable("é 漢 😀 'x'") == "é 漢 😀 'x'"
    assert printable("a\nb\x1b[31m\udcff\u202e") == r"a\nb\x1b[31m\udcff\u202e"
    with pytest.raises(WavedilError, match=r"a\\nb\\udcff.wav: no such file") as caught:
        read(tmp_path / "a\nb\udcff.wav")
    assert str(caught.value).isprintable() and caught.value.args == (str(caught.value),)
