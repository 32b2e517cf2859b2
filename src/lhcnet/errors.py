"""The one exception that a user is meant to read."""


class LhcnetError(Exception):
    """Something the user can mend: bad input, an impossible setting, a missing device.

    The message is one sentence that names the place (file, row, key) and says what was expected.
    The command line prints it alone, without a traceback, and exits with status 1.
    """
