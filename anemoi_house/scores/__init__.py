"""Scores of forecasts, and what a comparison of runs consists of."""
