"""python -m vgf_kernels: the command vgf-kernels."""

import sys

from .cli import main

sys.exit(main())
