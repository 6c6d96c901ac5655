"""The benchmarks are a package of the repository, not of the product: found from its root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
