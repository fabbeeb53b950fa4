"""Starts things: pipelines, clusters, and the console command."""
