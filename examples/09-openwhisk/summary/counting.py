"""Helps the action beside it."""

from collections import Counter


def most_used(words):
    """Return the most used word."""
    return Counter(words).most_common(1)[0][0]
