"""The commands that install extras."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import wavedil
from wavedil import extras

ROOT = Path(wavedil.__file__).parents[1]


def test_all_extras_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras.EXTRAS.keys() == project["optional-dependencies"].keys()
    table = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").partition("| extra | for |")[2]
    assert all(f"| `{extra}` |" in table for extra in extras.EXTRAS)
    assert extras.extra_of("PIL") == "vision" and extras.extra_of("else") is None


class Distribution:
    def __init__(self, origin):
        self.origin = origin

    def read_text(self, name):
        return self.origin if name == "direct_url.json" else None


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ({"url": "https://a.b/w.git", "vcs_info": {"vcs": "git"}}, "'wavedil[vision] @ git+https://a.b/w.git'"),
        ({"url": "file:///home/me/wavedil", "dir_info": {}}, "'wavedil[vision] @ file:///home/me/wavedil'"),
        (None, "'wavedil[vision]'"),
    ],
)
def test_the_command_names_where_the_package_came_from(monkeypatch, tmp_path, origin, source):
    assert extras.install_extra("vision").endswith(f"pip install -e '{ROOT}[vision]'")
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "wavedil" / "extras.py"))
    text = None if origin is None else json.dumps(origin)
    monkeypatch.setattr(extras.metadata, "distribution", lambda name: Distribution(text))
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert extras.install_extra("vision") == f"uv pip install {source}"
    monkeypatch.setattr(extras, "find_spec", lambda name: name)

    def fail(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras.metadata, "distribution", fail)
    assert extras.install_extra("midi") == "pip install 'wavedil[midi]'"


def test_it_imports_no_heavy_module():
    code = "import sys, wavedil.extras; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
