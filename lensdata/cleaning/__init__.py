"""Unlabelled lenses among the negatives: ranked, looked at, and dealt with (R-N1, R-N2)."""
