"""Configuration of Sphinx: `make docs`."""

from anemoi_house import __version__

project = "anemoi-house"
author = "the anemoi-house authors"
copyright = f"2026, {author}"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"anemoi-house {release}"

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
