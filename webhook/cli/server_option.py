"""A server on the command line: ``--server`` and ``--api-server`` take a URL or HOST:PORT."""

from typing import Any, Final

import click

from keys.showing import shown
from webhook.config.model import EVERY_ADDRESS
from webhook.https_url import HTTPSAddress, parse_https_url

METAVAR: Final = "URL|HOST:PORT"


class ServerAddress(click.ParamType[HTTPSAddress]):
    """``https://hook.example.com``, ``hook.example.com:8443`` or ``[::1]:8443``."""

    name = "server"

    def convert(self, value: Any, param: Any, ctx: Any) -> HTTPSAddress:
        """Return the address. Fails for anything else; what might be a password is not shown."""
        text = str(value)
        url = text if "://" in text else f"https://{text}"
        try:
            address = parse_https_url(url)
        except ValueError:
            address = None
        has_port = "://" in text or text.rpartition(":")[2].isdigit()
        if address is None or address.target != "/" or not has_port:
            self.fail(
                f"{shown(text)} is not a server; write HOST:PORT, like 127.0.0.1:8443, or an "
                "https URL without a path",
                param,
                ctx,
            )
        host = EVERY_ADDRESS.get(address.host, address.host)
        return address._replace(host=host)
