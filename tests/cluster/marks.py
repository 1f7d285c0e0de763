"""Marks that tests carry for run.py."""
import os


class Skip(Exception):
    """Raised by a test that cannot run here; says why."""


def bound(seconds):
    """The test's time bound, if not the default."""
    def mark(function):
        function.bound = seconds
        return function
    return mark


def soak(function):
    """Only runs with --soak, or when named."""
    function.soak = True
    return function


def is_soak():
    return os.environ.get("LITEFWD_SOAK") == "1"


def note(text):
    """A result worth showing in the summary, such as commits per node."""
    print("note: " + text, flush=True)
