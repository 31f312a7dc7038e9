"""Servers for the tests of tracking: MLflow itself, and fronts before it that fail on demand or are Azure."""
