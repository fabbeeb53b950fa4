#!/bin/sh
# The project itself, after its packages: a changed line of code rebuilds this layer only (R-I3).
#
# Installed in place, because pipelines name the YAML files of configs/ beside the code.
set -eu
venv/bin/python -m pip install --disable-pip-version-check --quiet --no-cache-dir --no-deps --no-build-isolation -e .
venv/bin/python -m compileall -q infra lensdata spark_jobs ray_train 2>/dev/null || true
# Who ships an image ships these packages: their licences lie in it.
venv/bin/python docker/write_licences.py licences.csv
venv/bin/lensdata --version
