"""``python -m wavedil`` is the command ``wavedil``."""

import sys

from wavedil.cli import main

sys.exit(main())
