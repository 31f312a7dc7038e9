"""The Hydra plugin of anemoi-house."""
