"""`python -m toco_cli`: the same as the `toco` command."""

import sys

from toco_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
