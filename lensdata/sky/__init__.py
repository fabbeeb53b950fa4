"""Positions on the sky: pixels, splits, matches and groups."""
