"""`segtrain runs` from a checkout: python tools/runs.py report runs/bootstrap/20261121-001502."""

import sys

from segtrain.cli.runs import main

if __name__ == "__main__":
    sys.exit(main())
