"""`python -m pipeline` is the same program as `lhcnet pipeline`."""

import sys

from lhcnet.allocator import restart_tuned

if __name__ == "__main__":
    restart_tuned(["pipeline", *sys.argv[1:]])
    from lhcnet.cli import main
    from lhcnet.cli_pipeline import app

    main(app)
