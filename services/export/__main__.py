"""``python -m services.export``."""

import sys

from services.export.main import main

sys.exit(main())
