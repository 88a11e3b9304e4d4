"""`segtrain config` from a checkout: python tools/config.py show configs/camvid.yaml."""

import sys

from segtrain.cli.config import main

if __name__ == "__main__":
    sys.exit(main())
