"""The version of this build; pyproject.toml takes it from here."""

import os
from typing import Final

VERSION: Final = "0.1.0"
# Set when an image is built; empty in a checkout.
COMMIT: Final = os.environ.get("LEEWAY_COMMIT", "")
