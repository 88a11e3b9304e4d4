"""`segtrain mining` from a checkout: python tools/mining.py --checkpoint runs/bootstrap/20261121-001502."""

import sys

from segtrain.cli.mining import main

if __name__ == "__main__":
    sys.exit(main())
