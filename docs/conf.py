"""Sphinx configuration: ``uv run --group docs sphinx-build -W -b html docs docs/_build``."""

import os
import re
import sys
import typing
from contextlib import suppress
from pathlib import Path
from typing import Any

import wavedil
from wavedil.packaged import packaged_names

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project, author, release = "wavedil", "the wavedil authors", wavedil.__version__
copyright = "the wavedil authors, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]  # the second: executed notebooks, beside _build
suppress_warnings = ["ref.python"]  # attributes that many classes have, e.g. receptive_field

html_theme = "pydata_sphinx_theme"
html_title = "wavedil"
html_theme_options = {"navbar_end": ["theme-switcher"], "show_toc_level": 2, "header_links_before_dropdown": 6}
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_sidebars = {"index": [], "listen": []}  # these have no pages below them

highlight_language = "bash"
myst_heading_anchors = 4  # headings can be linked as on GitHub
myst_enable_extensions = ["colon_fence"]
nb_execution_in_temp = True  # notebooks are stored without outputs, and executed for the pages
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # progress of trainings

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # of Lightning, whose references lead nowhere here
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
napoleon_custom_sections = [("Shapes", "params_style")]

#: Pages outside of docs/, and the name of their copy in docs/project/, which git ignores.
PAGES = {"CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing", "SECURITY.md": "security"}
PAGES |= {"recipes/README.md": "recipes"}
PAGES |= {f"wavedil/models/{name}/README.md": f"model_{name}" for name in packaged_names()}


def relink(text: str, folder: Path, page: Path) -> str:
    """Rewrites relative links of a text in ``folder`` for its place at ``page``, and to the copies of PAGES."""

    def replace(match: re.Match) -> str:
        file, _, heading = match[1].partition("#")
        if not file or re.match(r"\w+:", file):
            return match[0]
        target = (folder / file).resolve()
        name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
        if name in PAGES:
            target = DOCS / "project" / f"{PAGES[name]}.md"
        return f"]({os.path.relpath(target, page.parent)}{'#' * bool(heading)}{heading})"

    return re.sub(r"\]\(([^)\s]+)\)", replace, text)


def copy_pages(app: Any, config: Any) -> None:
    (DOCS / "project").mkdir(exist_ok=True)
    for source, name in PAGES.items():
        page = DOCS / "project" / f"{name}.md"
        text = relink((ROOT / source).read_text(encoding="utf-8"), (ROOT / source).parent, page)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def relink_page(app: Any, docname: str, source: list[str]) -> None:
    if not docname.startswith("project/"):
        page = Path(app.env.doc2path(docname))
        source[0] = relink(source[0], page.parent, page)


def hide_ranges(app: Any, documented: Any, bound_method: bool) -> None:
    """Shows ``Annotated[int, Range(1, 8)]`` as ``int``."""
    functions = [getattr(documented, "__func__", documented)]
    owner = sys.modules.get(documented.__module__), documented.__qualname__.split(".")[0]
    functions += [value.fget for value in vars(getattr(*owner, object)).values() if isinstance(value, property)]
    for function in functions:
        while function is not None:
            with suppress(NameError, TypeError, AttributeError):
                function.__annotations__ = typing.get_type_hints(function)
            function = getattr(function, "__wrapped__", None)


def setup(app: Any) -> None:
    app.connect("config-inited", copy_pages)
    app.connect("source-read", relink_page)
    app.connect("autodoc-before-process-signature", hide_ranges)
