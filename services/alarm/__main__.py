"""``python -m services.alarm``."""

import sys

from services.alarm.main import main

sys.exit(main())
