"""`python -m jaxprompt`."""

import sys

from jaxprompt.commands import main

sys.exit(main())
