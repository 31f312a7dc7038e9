"""Configuration of Sphinx: `make docs`."""

from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from anemoi_house import __version__

project = "anemoi-house"
author = "the anemoi-house authors"
copyright = f"2026, {author}"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"anemoi-house {release}"
html_static_path = ["_static"]
html_css_files = ["house.css"]
html_math_renderer = "mathml"  # formulas show without scripts and without a network

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


MATHML = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", MATHML)


def setup(app: Sphinx) -> None:
    """Render formulas as MathML."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def _mathml(latex: str, display: str) -> str:
    """Convert a formula. Overlines become borders: they stretch in CSS, but not in every font."""
    formula = ElementTree.fromstring(convert(latex, display=display))
    for over in formula.iter(f"{{{MATHML}}}mover"):
        if over[1].text == "\N{HORIZONTAL BAR}":
            over.remove(over[1])
            over.tag = over[0].tag
            over.set("class", "overline")
    return ElementTree.tostring(formula, encoding="unicode")
