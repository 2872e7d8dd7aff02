"""``python -m wavedil`` is the command ``wavedil``."""

import sys

from wavedil.cli.main import main

sys.exit(main())
