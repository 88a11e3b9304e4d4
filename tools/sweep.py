"""`segtrain sweep` from a checkout: python tools/sweep.py --config configs/sweeps/mining_scenes.yaml."""

import sys

from segtrain.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
