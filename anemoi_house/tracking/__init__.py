"""Tracking of training runs."""
