"""`python -m anemoi_house.study`: run the study."""

import sys

from anemoi_house.study.run import main

sys.exit(main())
