"""Forecasts of trained runs: requested, made by the stock runner, and read back."""
