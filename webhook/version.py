"""The version of this build."""

import os
from importlib.metadata import version
from typing import Final

VERSION: Final = version("leeway-webhook")
# Set when an image is built; empty in a checkout.
COMMIT: Final = os.environ.get("LEEWAY_COMMIT", "")
