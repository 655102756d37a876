"""The commands that repair a data directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from webhook.config.paths import DEFAULT_HOSTS
from webhook.doctor.findings import command
from webhook.setup.first_records import API_SERVER_USER

RELOAD = "kill -HUP $(pgrep -of 'leeway serve')   # or restart the server; its log says more"


@dataclass(frozen=True, slots=True)
class Fixes:
    """Commands for one data directory; ``hosts`` are the names that clients use for its server."""

    data_dir: Path
    hosts: Sequence[str] = ()

    def leeway(self, *words: str) -> str:
        """Return a ``leeway`` command for this directory."""
        return command("leeway", *words, "--data-dir", self.data_dir)

    def init(self) -> str:
        """Return the command that creates what is missing."""
        named = [host for host in self.hosts if host not in DEFAULT_HOSTS[1:]]
        hosts = [] if named == [DEFAULT_HOSTS[0]] else named
        return self.leeway("init", *(word for host in hosts for word in ("--host", host)))

    def remake(self, *names: str) -> str:
        """Return the commands that recreate files; ``names`` are relative to the directory."""
        paths = [self.data_dir / name for name in names]
        return f"{command('rm', '-f', *paths)} && {self.init()}"

    def renew(self, name: str) -> str:
        """Return the command that replaces the certificate of a user, or of the server."""
        renewal = self.leeway("cert", "renew", name)
        return renewal if name == "server" else self.copied(renewal)

    def remake_server(self) -> str:
        """Return the commands that recreate the server's certificate."""
        return self.remake("tls/server.crt", "tls/server.key")

    def remake_client(self, user: str) -> str:
        """Return the commands that recreate a client's certificate and its kubeconfigs."""
        names = ("tokenreview", "subjectaccessreview") if user == API_SERVER_USER else (user,)
        kubeconfigs = [f"kubeconfig/{name}.yaml" for name in names]
        return self.copied(self.remake(f"tls/{user}.crt", f"tls/{user}.key", *kubeconfigs))

    def copied(self, remake: str) -> str:
        """Add the advice to copy the new kubeconfigs: their users have copies of the old ones."""
        return f"{remake}   # then copy the new kubeconfigs to where they are used"

    def restore(self, what: str) -> str:
        """Return the advice to restore what no command can repair."""
        return f"restore {self.data_dir / what} from a backup"
