"""Hydra plugin of anemoi-house."""
