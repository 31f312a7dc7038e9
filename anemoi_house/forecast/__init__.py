"""Forecasts of a trained run with the stock anemoi-inference: asked for, made, read."""
