"""Sphinx's settings: `python3 quickstart.py docs` builds these pages."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxRole

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import cards  # noqa: E402
import pages  # noqa: E402

import keras_adamfamily  # noqa: E402

project = "keras_adamfamily"
author = copyright = "the authors of keras_adamfamily"
version = release = keras_adamfamily.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["fieldlist"]
myst_heading_anchors = 3
nitpicky = True
exclude_patterns = ["_build"]
highlight_language = "none"  # of the equations

html_theme = "furo"
html_title = f"keras_adamfamily {version}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False


class Source(SphinxRole):
    """A file of this repository, to download; a test in it may follow `::`."""

    def run(self):
        path, _, test = self.text.partition("::")
        text = (HERE.parent / path).read_text("utf-8")
        if test and f"def {test}(" not in text and f"class {test}" not in text:
            raise ValueError(f"{path} has no {test}")
        link = addnodes.download_reference(
            reftarget=f"/../{path}", refdoc=self.env.docname, refdomain="", reftype="download"
        )
        link += nodes.literal(text=self.text)
        return [link], []


def make(app):
    """Writes the pages that are made, and draws the cards where their sources have changed."""
    folder = HERE / "generated"
    pages.write(folder)
    if not cards.are_current(folder / "cards"):
        cards.main(folder / "cards")


def link(app, name, source):
    """Links the names in the hand-written pages as in the made ones."""
    if not name.startswith("generated/"):
        source[0] = pages.linked(source[0])


def setup(app):
    app.add_role("source", Source())
    app.connect("builder-inited", make)
    app.connect("source-read", link)
