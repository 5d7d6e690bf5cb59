"""The command line: parse, call, print."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

import scattergen
from scattergen.cli import fitting, looking, using
from scattergen.cli.arguments import unfolded
from scattergen.errors import ScattergenError
from scattergen.wording import say, visible


class _Commands(TyperGroup):
    """The commands; mistaken arguments, which may be hostile file names, are shown with `visible`."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _harmless_mistakes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _harmless_mistakes():
            return super().invoke(ctx)


@contextmanager
def _harmless_mistakes() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        mistake: Any = error
        if hasattr(mistake, "format_message"):  # one that typer prints; its class is not public
            mistake.message = visible(mistake.message)
        raise


app = typer.Typer(
    cls=_Commands, help="Generative models from wavelet scattering: images to codes, codes to new images.",
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        say(f"scattergen {scattergen.__version__}")
        raise typer.Exit


for _command in (
    fitting.fit, fitting.density,
    using.sample, using.encode, using.decode, using.reconstruct, using.interpolate,
    looking.info, looking.evaluate, looking.diagnose,
    looking.reproduce,
):  # fmt: skip
    app.command()(unfolded(_command))


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}", file=sys.stderr)
    try:
        app()
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        say(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # what typer exits with after Ctrl-C
            continues = sys.argv[1:2] in (["fit"], ["density"], ["reproduce"])
            remedy = "the same command continues where it stopped" if continues else "run it again"
            say(f"interrupted: {remedy}.", file=sys.stderr)
        raise


def sentence_of(error: BaseException) -> str | None:
    """What to tell a user about an error; None if nobody expected it, so that its traceback says more."""
    if isinstance(error, ScattergenError):
        return str(error)
    if isinstance(error, OSError):
        # Where there is no better sentence, as for a network drive that went away.
        return f"{error.filename or 'A file'} cannot be used ({error.strerror}): check the path."
    import torch

    from scattergen.processes import is_lost_connection

    refused = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if refused or isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "There is not enough memory for this: use fewer images, smaller ones, or a smaller network."
    if is_lost_connection(error):
        remedy = "see what that one says, then run the same command again; finished parts are kept"
        return f"The connection to another process of this fit was lost: {remedy}."
    return None
