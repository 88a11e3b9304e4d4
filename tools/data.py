"""`segtrain data` from a checkout: python tools/data.py check configs/camvid.yaml."""

import sys

from segtrain.cli.data import main

if __name__ == "__main__":
    sys.exit(main())
