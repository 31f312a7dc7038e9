"""Forecasts for tests, without a model."""
