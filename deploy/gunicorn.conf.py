"""For those who run gunicorn themselves: ``gunicorn --config deploy/gunicorn.conf.py``.

The same settings and the same checks as ``leeway serve``, from the same code. The data directory is
``$LEEWAY_DATA_DIR``, else ``./leeway-data``; flags of gunicorn beat what stands here.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from keys.errors import KeysError
from webhook.cli.serve import prepare_to_serve
from webhook.config.load import data_dir_of, load_configuration
from webhook.config.paths import tls_files
from webhook.errors import LeewayError
from webhook.rbac.errors import StoreError, StoreUnavailableError
from webhook.server.gunicorn_settings import gunicorn_settings, shared_memory

_REFUSED = (KeysError, LeewayError, StoreError, StoreUnavailableError)

# Before the application, and prometheus_client with it, is imported.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(
        prefix="leeway-metrics-", dir=shared_memory()
    )


def _remove_metrics():
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    # One that you have made stays. This file is read again on SIGHUP, hence by its name.
    if folder.name.startswith("leeway-metrics-"):
        shutil.rmtree(folder, ignore_errors=True)


try:
    _DATA_DIR = data_dir_of(os.environ)
    _CONFIGURATION = load_configuration(_DATA_DIR, os.environ, {})
    _FILES = tls_files(_DATA_DIR)
except _REFUSED as _error:
    _remove_metrics()
    sys.exit(f"leeway: {_error}")

wsgi_app = "webhook.server.gunicorn_settings:application()"
globals().update(gunicorn_settings(_CONFIGURATION, _FILES))


def on_starting(_server):
    """Refuse once what no worker could serve."""
    try:
        prepare_to_serve(_DATA_DIR, _CONFIGURATION, _FILES)
    except _REFUSED as error:
        _remove_metrics()
        sys.exit(f"leeway: {error}")


def on_exit(_server):
    """Leave nothing behind."""
    _remove_metrics()
