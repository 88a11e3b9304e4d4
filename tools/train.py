"""`segtrain train` from a checkout: python tools/train.py --config configs/bootstrap.yaml."""

import sys

from segtrain.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
