"""Training sets of strong-lens finders on the DESI Legacy Imaging Surveys: built, trained on and audited."""

__version__ = "0.1.0"

__all__ = ["__version__", "open_manifest", "open_run"]


def __getattr__(name: str) -> object:
    # What notebooks use is found here, and imported only there: the console command must start at once.
    if name in ("open_manifest", "open_run"):
        from lensdata import runs

        return getattr(runs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
