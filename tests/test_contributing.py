"""CONTRIBUTING.md maps the package as it is."""

from pathlib import Path

import wavedil

ROOT = Path(__file__).parents[1]


def mapped_folders() -> set[str]:
    """The folders of the map in CONTRIBUTING.md, whose levels are indented by two spaces, relative to the root."""
    folders, path = set(), []
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for line in text[text.index("```\nwavedil/") :].split("```")[1].splitlines():
        name = line.split()[0] if line.strip() else ""
        if name.endswith("/"):
            path = path[: (len(line) - len(line.lstrip())) // 2] + [name.rstrip("/")]
            folders.add("/".join(path))
    return folders


def test_the_map_names_every_folder_of_the_package_and_no_other():
    package = Path(wavedil.__file__).parent
    modules = package.rglob("*.py")
    folders = {path.parent.relative_to(package.parent).as_posix() for path in modules}
    assert folders == {folder for folder in mapped_folders() if folder.split("/")[0] == "wavedil"}
