"""``python -m wavedil`` is ``wavedil``."""

import sys

from wavedil.cli.main import main

sys.exit(main())
