"""The error for input that you can correct: a file, a folder or an option."""


class InputError(ValueError):
    """A file, folder or option cannot be used. The message says what is wrong in one line."""
