"""`segtrain doctor` from a checkout: python tools/doctor.py."""

import sys

from segtrain.cli.doctor import main

if __name__ == "__main__":
    sys.exit(main())
