"""Stamps: what is asked for, how it is fetched, whether it is good, and what became of it."""
