"""Help as plain text with a little colour.

Typer's own, of boxes, takes longer to import than the rest of an answer, and breaks what people are to type.
"""

import os
import re
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_HEADING = r"(?m)^ *(Usage|Examples?|Arguments|Options|Commands):"
_TYPED = r"(?m)^  (-[^\s,]+(?:(?:, | / )-\S+)*|[a-z]+(?=  ))"


def _shown(text: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)  # typer would write UTF-8 to any terminal
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    text = re.sub(_HEADING, lambda it: typer.style(it[0], bold=True), text)
    return re.sub(_TYPED, lambda it: typer.style(it[0], fg="cyan"), text)


class Command(TyperCommand):
    """A command whose help is quick."""

    def get_help(self, ctx: Any) -> str:
        """As of every command, with what is typed in colour."""
        return _shown(super().get_help(ctx))


class Commands(TyperGroup):
    """A group of commands whose help and mistakes are quick."""

    def get_help(self, ctx: Any) -> str:
        """As of every group, with what is typed in colour."""
        return _shown(super().get_help(ctx))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List commands with their whole first sentences."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, str(one.help).partition("\n")[0]) for name, one in self.commands.items()])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As of every group, but help and mistyped commands are told of at once, not after pydantic is imported."""
        if set(args) <= {"--"} and not ctx.resilient_parsing:  # which completes what is typed
            typer.echo(self.get_help(ctx))
            ctx.exit(2)
        if args and args[0][:1].isalnum():  # no option
            self.resolve_command(ctx, args)
        return super().parse_args(ctx, args)
