"""Training sets of strong-lens finders on the DESI Legacy Imaging Surveys: built, trained on and audited."""

__version__ = "0.1.0"
