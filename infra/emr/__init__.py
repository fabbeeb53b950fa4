"""Spark steps on Amazon EMR (R-I1): packages, preflight, clusters that end by themselves, logs."""
