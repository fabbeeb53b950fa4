"""All measurements of the catalogue jobs: extraction, sampling, splits, crossmatch and growth.

    python benchmarks/catalogue.py [ROWS] [--competitors PYTHON] [--work FOLDER]

ROWS is the size of the pool; see extraction.py and catalogue_scale.py, which also run alone.
"""

from __future__ import annotations

import argparse

import catalogue_scale
import extraction


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", default=str(catalogue_scale.DEFAULT_ROWS))
    parser.add_argument("--competitors", help="interpreter with the packages of competitors.txt")
    parser.add_argument("--work", help="folder for large files; a temporary one by default")
    args = parser.parse_args()
    others = ["--competitors", args.competitors] if args.competitors else []
    extraction.main(others)
    catalogue_scale.main([args.rows, *others, *(["--work", args.work] if args.work else [])])


if __name__ == "__main__":
    main()
