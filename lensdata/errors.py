"""The one error that a person is meant to read."""


class InputError(Exception):
    """Bad input or configuration, said in one sentence.

    The message names the thing (file, row or key), what was found, what was expected and what to do.
    Entry points print it without a stack trace and exit with 2 (R-I4).
    """
