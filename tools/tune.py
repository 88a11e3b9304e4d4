"""`segtrain tune` from a checkout: python tools/tune.py lr --config configs/camvid.yaml."""

import sys

from segtrain.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
