"""`segtrain bench` from a checkout: python tools/bench.py --config configs/camvid.yaml."""

import sys

from segtrain.cli.bench import main

if __name__ == "__main__":
    sys.exit(main())
