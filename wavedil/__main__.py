"""``python -m wavedil`` is ``wavedil``."""

import sys

from wavedil.cli import main

sys.exit(main())
