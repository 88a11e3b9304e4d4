"""`segtrain predict` from a checkout: python tools/predict.py --checkpoint runs/x/y photo.jpg."""

import sys

from segtrain.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
