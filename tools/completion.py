"""`segtrain completion` from a checkout: python tools/completion.py bash."""

import sys

from segtrain.cli.completion import main

if __name__ == "__main__":
    sys.exit(main())
