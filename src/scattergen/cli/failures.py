"""What to tell a user about an error."""

from scattergen.errors import ScattergenError


def sentence_of(error: BaseException) -> str | None:
    """What to tell a user about an error; None if nobody expected it, so that its traceback says more."""
    if isinstance(error, ScattergenError):
        return str(error)
    if isinstance(error, OSError):
        # Where there is no better sentence, as for a network drive that went away.
        return f"{error.filename or 'A file'} cannot be used ({error.strerror}): check the path."
    import torch

    from scattergen.processes import is_lost_connection

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    ):
        return "There is not enough memory for this: use fewer images, smaller ones, or a smaller network."
    if is_lost_connection(error):
        return (
            "The connection to another process of this fit was lost: see what that one says, "
            "then run the same command again; finished parts are kept."
        )
    return None
