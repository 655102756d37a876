"""``python -m webhook.health_probe``: the container's health check, exit code 0 if alive.

The probe accepts any certificate on the loopback port of its own container, since it sends nothing
that is secret.
"""

import os
import ssl
import sys
from contextlib import closing

from webhook.config.load import data_dir_of, load_configuration
from webhook.errors import LeewayError
from webhook.outbound.errors import OutboundError
from webhook.outbound.https import Client, Deadline, Endpoint


def is_healthy(port: int, path: str, context: ssl.SSLContext) -> bool:
    """Return whether a health path of a server on the loopback address answers 200."""
    endpoint = Endpoint("127.0.0.1", port, "127.0.0.1", f"127.0.0.1:{port}")
    try:
        with (
            closing(Client(endpoint, context)) as client,
            client.get(path, {}, Deadline(2), max_bytes=0) as response,
        ):
            return response.status == 200
    except OutboundError:
        return False


def main() -> int:
    """Request ``/livez`` on the configured port."""
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
