"""The command line: parse, call, print."""

import errno
import re
import sys
import warnings
from typing import Annotated, Any

import typer
from typer import Option

from scattergen.cli import browsing, fitting, looking, sharing, streams, using
from scattergen.cli.arguments import unfolded
from scattergen.cli.help import Command, Commands
from scattergen.display.machine import __version__
from scattergen.display.words import say
from scattergen.errors import ScattergenError

# What typer says of options, and from 0.28 on pydantic, by which it then reads them.
_PLAIN = {
    r"(?:Value error, )?('.*') is not one of (.*)\.": r"\1 is unknown: choose one of \2.",
    r"(?<=: ).* is not a valid integer\b.*|Input should be a valid integer\b.*": "give an integer.",
    r"(?<=: ).* is not a valid float\b.*|Input should be a valid number\b.*": "give a number.",
    r"(?<=: ).* is not in the range x>=(.*)\.|Input should be greater than or equal to (.*)": r"give at least \1\2.",
    r"(?<=: ).* is not in the range x<=(.*)\.|Input should be less than or equal to (.*)": r"give at most \1\2.",
    r"(?<=: ).* is not in the range (.*)<=x<=(.*)\.": r"give \1 to \2.",
}


app = typer.Typer(
    cls=Commands, help="Generative models from wavelet scattering: images to codes, codes to new images.",
    pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        say(f"scattergen {__version__}")
        sys.exit()


for _command in (
    fitting.fit, fitting.density, using.sample, using.encode, using.decode, using.reconstruct, using.interpolate,
    looking.info, looking.report, looking.evaluate, looking.diagnose, sharing.export, sharing.push,
    looking.reproduce,
    browsing.explore, browsing.list_, browsing.compare, browsing.nearest, browsing.edit, browsing.options,
):  # fmt: skip
    app.command(_command.__name__.rstrip("_"), cls=Command)(unfolded(_command))


_CONTINUING = {"fit", "density", "reproduce"}
_WRITING = {*_CONTINUING, "report", "sample", "encode", "decode", "reconstruct", "interpolate", "edit", "export"}
_ASKING = {"--json", "--estimate", "--help", "-h", "--version"}  # for something to be printed


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}", file=sys.stderr)
    with streams.usable():
        output = sys.stdout  # typer puts another in its place where nobody reads it
        try:
            if sys.argv[1:] == ["--version"]:  # at once: what typer needs to read options takes most of the time
                _version(True)
            # With a code after --help and Ctrl-C.
            end: BaseException = SystemExit(app(prog_name="scattergen", standalone_mode=False))
        except (Exception, SystemExit) as error:
            end = error
        sys.exit(_told(end, streams.refusal(output)))


def _told(end: BaseException, refusal: OSError | None) -> Any:
    """The exit code of a command, after telling how it ended and that its output was refused."""
    command, code = "".join(sys.argv[1:2]), getattr(end, "code", 2) or 0
    if refusal is not None and (code == 0 or isinstance(end, OSError)):
        if refusal.errno == errno.EPIPE:  # whoever read it has seen enough
            return 1
        reason = "it is closed" if refusal.errno == errno.EBADF else refusal.strerror
        lost = f"What was to be printed is lost, since the output cannot be written to ({reason})"
        written = command in _WRITING and not _ASKING.intersection(sys.argv)
        remedy = "; the command is done and its files are written" if written else ": send it to another place"
        say(f"{'warning' if written else 'error'}: {lost}{remedy}.", file=sys.stderr)
        return 0 if written else 2
    if code == 130:  # what typer exits with after Ctrl-C
        remedy = "the same command continues where it stopped" if command in _CONTINUING else "run it again"
        say(f"interrupted: {remedy}.", file=sys.stderr)
    elif not isinstance(end, SystemExit):
        sentence = sentence_of(end)
        if sentence is None:
            raise end
        say(f"error: {sentence}", file=sys.stderr)
    return code


def _of_arguments(mistake: Any) -> str:
    """What is wrong with the arguments, in plain words."""
    message, context = mistake.format_message(), getattr(mistake, "ctx", None)
    for said, plain in _PLAIN.items():
        message = re.sub(said, plain, message)
    return f'{message} ("{context.command_path} --help" tells more.)' if context else message


def sentence_of(error: BaseException) -> str | None:
    """What to tell a user about an error; None if nobody expected it, so that its traceback says more."""
    if isinstance(error, ScattergenError):
        return str(error)
    if hasattr(error, "format_message"):  # of typer, whose class for mistaken arguments is not public
        return _of_arguments(error)
    if isinstance(error, OSError):
        # Where there is no better sentence, as for a network drive that went away.
        return f"{error.filename or 'A file'} cannot be used ({error.strerror}): check the path."
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # of `Path.expanduser`
        return "A path begins with ~, which stands for no folder here: write the folder's whole name."
    import torch

    from scattergen.processes import is_lost_connection

    refused = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if refused or isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "There is not enough memory for this: use fewer images, smaller ones, or a smaller network."
    if is_lost_connection(error):
        remedy = "see what that one says, then run the same command again; finished parts are kept"
        return f"The connection to another process of this fit was lost: {remedy}."
    return None
