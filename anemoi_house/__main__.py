"""`python -m anemoi_house`: the same as `anemoi-house`."""

import sys

from anemoi_house.cli import main

sys.exit(main())
