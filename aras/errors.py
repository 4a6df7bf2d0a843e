"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A problem with the input or the machine, told in one line that names the file or option and the remedy."""
