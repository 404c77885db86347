"""`python -m radosmount`."""

import sys

from radosmount.cli import main

if __name__ == "__main__":
    sys.exit(main())
