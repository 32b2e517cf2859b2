"""The program `lhcnet`, also as `python -m lhcnet`."""

import sys
from typing import NoReturn

from lhcnet.allocator import restart_tuned


def main() -> NoReturn:
    restart_tuned(sys.argv[1:])  # before anything large is imported
    from lhcnet.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
