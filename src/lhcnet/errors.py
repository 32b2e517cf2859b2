"""The one exception that a user is meant to read."""

_LONGEST = 4000  # characters


class LhcnetError(Exception):
    """Something the user can mend: bad input, an impossible setting, a missing device.

    The message is one sentence that names the place (file, row, key) and says what was expected.
    The command line prints it alone, without a traceback, and exits with status 1.

    It is one line whatever it quotes: a file's name, a key or a cell may hold line breaks and codes that move a
    terminal's cursor, which are shown escaped, and may be endless, which is cut in the middle.
    """

    def __init__(self, message: str) -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class NoMemoryError(LhcnetError):
    """The memory of the machine, of the container or of the GPU does not suffice."""
