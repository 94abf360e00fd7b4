"""``python -m pancreas_seg`` is the same as ``pancreas-seg``."""

import sys

from pancreas_seg.cli import main

if __name__ == "__main__":
    sys.exit(main())
