"""``python -m services.carbon``."""

import sys

from services.carbon.main import main

sys.exit(main())
