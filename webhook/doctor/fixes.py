"""The commands that repair a data directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from webhook.config.paths import DEFAULT_HOSTS
from webhook.doctor.findings import command
from webhook.setup.init import API_SERVER_USER

RELOAD = "kill -HUP $(pgrep -of 'leeway serve')   # or restart the server; its log says more"


@dataclass(frozen=True, slots=True)
class Fixes:
    """Commands for one data directory; ``hosts`` are the names by which its server is called."""

    data_dir: Path
    hosts: Sequence[str] = ()

    def leeway(self, *words: str) -> str:
        """Return a command of ours on this directory."""
        return command("leeway", *words, "--data-dir", self.data_dir)

    def init(self) -> str:
        """Return the command that makes whatever is missing."""
        named = [host for host in self.hosts if host not in DEFAULT_HOSTS[1:]]
        hosts = [] if named == [DEFAULT_HOSTS[0]] else named
        return self.leeway("init", *(word for host in hosts for word in ("--host", host)))

    def remake(self, *names: str) -> str:
        """Return the commands that make files again; ``names`` count from the directory."""
        paths = [self.data_dir / name for name in names]
        return f"{command('rm', '-f', *paths)} && {self.init()}"

    def renew(self, name: str) -> str:
        """Return the command that replaces the certificate of a user, or of the server."""
        renewal = self.leeway("cert", "renew", name)
        return renewal if name == "server" else self.copied(renewal)

    def remake_server(self) -> str:
        """Return the commands that make the server's certificate again."""
        return self.remake("tls/server.crt", "tls/server.key")

    def remake_client(self, user: str) -> str:
        """Return the commands that make a client's certificate, and its kubeconfigs, again."""
        names = ("tokenreview", "subjectaccessreview") if user == API_SERVER_USER else (user,)
        kubeconfigs = [f"kubeconfig/{name}.yaml" for name in names]
        return self.copied(self.remake(f"tls/{user}.crt", f"tls/{user}.key", *kubeconfigs))

    def copied(self, remake: str) -> str:
        """Add what no command here can do: who uses a kubeconfig has a copy of it."""
        return f"{remake}   # then copy the new kubeconfigs to where they are used"

    def restore(self, what: str) -> str:
        """Return what to restore where no command can repair it."""
        return f"restore {self.data_dir / what} from a backup"
