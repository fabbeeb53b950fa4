"""Pydantic models of every YAML file, one module per area, and how they are loaded."""
