"""`python -m pipeline` is the same program as `lhcnet pipeline`."""

from lhcnet.cli import main
from lhcnet.cli_pipeline import app

if __name__ == "__main__":
    main(app)
