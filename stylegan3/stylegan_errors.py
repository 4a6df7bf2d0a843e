"""What goes wrong and can be mended by the user, told in one line."""

import errno
import os
from typing import Any

import click

REMEDIES = {
    errno.ENOSPC: "free some disk space, then run the same command again",
    errno.EDQUOT: "free some of your disk quota, then run the same command again",
    errno.EACCES: "make it readable and writable for you, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOENT: "check the path",
    errno.EIO: "the disk or the file is damaged: fetch or make the file again",
}


class StyleganError(click.ClickException):
    """A failure whose message names the file or option, and the remedy; a script ends with it and exit code 1."""

    def __reduce__(self) -> tuple[type["StyleganError"], tuple[str]]:
        """Have it cross between processes, as from a loader's worker."""
        return type(self), (self.message,)


class Script(click.Command):
    """A click command that ends with one line and exit code 1 also when a file or the disk fails.

    Set `STYLEGAN_TRACEBACK=1` in the environment to see the traceback all the same. In the help, a line with nothing
    but a backslash and a b keeps the paragraph after it as it is written, also when the docstring is a raw string.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what click.Command takes."""
        super().__init__(*arguments, **options)
        if self.help:
            self.help = self.help.replace("\\b\n", "\b\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn `OSError` into one line."""
        try:
            return super().invoke(ctx)
        except (StyleganError, OSError) as error:
            if os.environ.get("STYLEGAN_TRACEBACK"):
                raise
            raise error if isinstance(error, StyleganError) else StyleganError(message_of_os_error(error)) from None


def message_of_os_error(error: OSError) -> str:
    """Return one line for an `OSError`: what failed, on which file, and what to do about it."""
    what = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    remedy = REMEDIES.get(error.errno or 0)
    return f"{where}{what}" + (f"; {remedy}" if remedy else "")
