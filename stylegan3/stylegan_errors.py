"""What goes wrong and can be mended by the user, told in one line."""

import click


class StyleganError(click.ClickException):
    """A failure whose message names the file or option, and the remedy; a script ends with it and exit code 1."""
