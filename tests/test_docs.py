"""The pages beside the README: links lead somewhere, and the map in CONTRIBUTING.md is that of the package."""

import re
from pathlib import Path

import pytest

import wavedil

ROOT = Path(__file__).parents[1]
PAGES = [path for folder in (".", "docs", "recipes") for path in sorted((ROOT / folder).glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub's links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[path.relative_to(ROOT).as_posix() for path in PAGES])
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{link}: no such file"
        assert not heading or heading in anchors(target), f"{link}: no such heading"


def mapped_folders() -> set[str]:
    """The folders of the map in CONTRIBUTING.md, relative to the root; each level is indented by two spaces."""
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
    folders = {path.parent.relative_to(package.parent).as_posix() for path in package.rglob("*.py")}
    assert folders == {folder for folder in mapped_folders() if folder.split("/")[0] == "wavedil"}
