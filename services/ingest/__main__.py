"""``python -m services.ingest``: this service alone."""

import sys

from services.ingest.main import main

sys.exit(main())
