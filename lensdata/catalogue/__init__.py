"""Sweep files, cuts, lenses, confusers, strata and samples."""
