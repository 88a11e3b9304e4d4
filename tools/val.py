"""`segtrain val` from a checkout: python tools/val.py --checkpoint runs/x/y."""

import sys

from segtrain.cli.val import main

if __name__ == "__main__":
    sys.exit(main())
