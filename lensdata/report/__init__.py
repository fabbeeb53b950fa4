"""Pages for people: figures, galleries and the report of a run (R-E8)."""
