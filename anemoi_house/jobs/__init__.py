"""Trainings as jobs: where one begins, and how one that was ended goes on."""
