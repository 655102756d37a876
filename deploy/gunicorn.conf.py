"""Runs Leeway under your own gunicorn: ``gunicorn --config deploy/gunicorn.conf.py``.

It has the settings and the checks of ``leeway serve``, from the same code. The data directory is
``$LEEWAY_DATA_DIR``, else ``./leeway-data``. Flags of gunicorn override these settings.
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

# This must be set before the application imports prometheus_client.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(
        prefix="leeway-metrics-", dir=shared_memory()
    )


def _remove_metrics():
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    # Keep a directory that someone else made. SIGHUP runs this file again, so only its name tells.
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
    """Check once, before the workers start, what all of them need."""
    try:
        prepare_to_serve(_DATA_DIR, _CONFIGURATION, _FILES)
    except _REFUSED as error:
        _remove_metrics()
        sys.exit(f"leeway: {error}")


def on_exit(_server):
    """Remove the metrics of this server."""
    _remove_metrics()
