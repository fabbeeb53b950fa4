"""Spark jobs: each reads its arguments, composes DataFrame transformations and writes one folder."""
