"""Data sets: loaders, the embedded synthetic ones, and `prepare.py`, which downloads or converts the others.

Imports neither `research` nor `launch`.
"""


class DataError(ValueError):
    """The user's data is missing or unusable; its message is one clear line."""
