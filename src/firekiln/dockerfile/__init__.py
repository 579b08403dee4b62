"""Dockerfile text to typed instructions. Pure: no file is opened, nothing but errors is imported."""
