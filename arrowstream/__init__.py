"""ArrowStream: a dataframe that never ends."""

__version__ = "0.1.0"
