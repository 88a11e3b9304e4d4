"""`segtrain export` from a checkout: python tools/export.py --checkpoint runs/x/y --format onnx."""

import sys

from segtrain.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
