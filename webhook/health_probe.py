"""``python -m webhook.health_probe``: the container's health check, exit 0 for alive.

The probe trusts whatever certificate answers on the loopback port of its own container: it asks
whether the server lives, and tells it nothing.
"""

import http.client
import os
import ssl
import sys

from webhook.config.load import data_dir_of, load_configuration
from webhook.errors import LeewayError


def is_healthy(port: int, path: str, context: ssl.SSLContext) -> bool:
    """Return whether a health path of a server on the loopback address answers 200."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    """Ask ``/livez`` on the configured port."""
    data_dir = data_dir_of(os.environ)
    try:
        bind = load_configuration(data_dir, os.environ, {}).server.bind
    except LeewayError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return 0 if is_healthy(int(bind.rpartition(":")[2]), "/livez", context) else 1


if __name__ == "__main__":
    sys.exit(main())
