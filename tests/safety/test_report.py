"""Report pages embed files of the run folder only."""

import os

import numpy as np
import pytest

from wavedil.errors import WavedilError
from wavedil.report import write_report
from wavedil.vision.data.images import write_image


def test_what_links_out_of_the_run_point_to_is_not_embedded(tmp_path):
    run, secret = tmp_path / "run", tmp_path / "secret"
    secret.mkdir()
    (secret / "image_1.png").write_text("the secret")
    for folder in (run, run / "samples"):
        folder.mkdir()
    (run / "config.yaml").write_bytes(b"a: \xff")
    os.symlink(secret / "image_1.png", run / "samples" / "image_0.png")
    os.symlink(secret, run / "previews")
    os.mkfifo(run / "samples" / "image_2.png")
    os.mkfifo(run / "metrics.csv")
    write_image(run / "samples" / os.fsdecode(b"image_\xff.png"), np.zeros((4, 20, 3), np.uint8))
    (run / "samples" / "image_4.png").write_bytes(b"no picture")
    with open(run / "samples" / "image_3.png", "wb") as file:
        file.truncate(2**31)  # takes no space on the disk
    page = write_report(run).read_text(encoding="utf-8")
    assert "dGhlIHNlY3JldA" not in page and page.count("data-part=prediction") == 1
    assert page.count("skipped: ") == 5
    (run / "config.yaml").unlink()
    os.symlink(secret / "image_1.png", run / "config.yaml")
    with pytest.raises(WavedilError, match="is not a run folder"):
        write_report(run)
