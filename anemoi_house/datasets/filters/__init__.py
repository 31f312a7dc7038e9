"""Filters of anemoi-transform for recipes, one a module, named as in its entry point: `house-coarsen` is in coarsen.py.

To add one, add a module with a subclass of `base.HouseFilter`, and its entry point in pyproject.toml.
"""
