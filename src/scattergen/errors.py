"""The errors a user can cause, each naming the culprit, what was expected and the remedy."""


class ScattergenError(Exception):
    """Something the user gave cannot be used; the message, which the command line prints, says what, why and a remedy.

    Example:
        >>> issubclass(InputError, ValueError)
        True
    """


class InputError(ScattergenError, ValueError):
    """Data or an argument does not have the form, range or size that is needed."""


class BadImageError(InputError):
    """An image cannot be read, but could be once its file is mended."""


class RunFolderError(ScattergenError):
    """A run folder is missing, damaged, of another version or in use for something else."""


def one_line(error: Exception) -> str:
    """What an error says, or its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
