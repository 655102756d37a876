"""Compares an existing data directory with the options of ``leeway init``."""

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from keys.files import read_public_file
from keys.folder import load_keyring
from keys.pki import read_certificate
from webhook.config.load import FILE_NAME, load_configuration
from webhook.config.paths import KEYS_FOLDER, KUBECONFIG_FOLDER, TLS_FOLDER
from webhook.errors import ConfigurationError, DirectoryDiffersError
from webhook.setup.init import InitOptions
from webhook.setup.kubeconfig import parse_kubeconfig


def require_same(data_dir: Path, options: InitOptions, environment: Mapping[str, str]) -> None:
    """Raise DirectoryDiffersError if the directory differs from an option that is given.

    Raises the errors of the configuration and of ``keys`` too.
    """
    found = [
        *_of_configuration(data_dir, options, environment),
        *_of_hosts(data_dir, options),
        *_of_algorithm(data_dir, options),
    ]
    if found:
        raise DirectoryDiffersError(
            f"{data_dir} exists with other options, and nothing was changed: {'; '.join(found)}"
        )


def _of_configuration(
    data_dir: Path, options: InitOptions, environment: Mapping[str, str]
) -> Iterator[str]:
    path = data_dir / FILE_NAME
    if not path.exists() or not (options.issuer or options.audiences):
        return
    configuration = load_configuration(data_dir, environment, {})
    if options.issuer and options.issuer != configuration.issuer:
        yield f"issuer is {configuration.issuer}, not {options.issuer}; edit {path}"
    if options.audiences and tuple(options.audiences) != configuration.audiences:
        there, wanted = ", ".join(configuration.audiences), ", ".join(options.audiences)
        yield f"audiences is {there}, not {wanted}; edit {path}"


def _of_hosts(data_dir: Path, options: InitOptions) -> Iterator[str]:
    path = data_dir / TLS_FOLDER / "server.crt"
    if not options.hosts:
        return
    if path.exists():
        hosts = read_certificate(read_public_file(path), str(path)).hosts
        known = {_normal(host) for host in hosts}
        missing = [host for host in options.hosts if _normal(host) not in known]
        if missing:
            flags = " ".join(f"--host {host}" for host in dict.fromkeys((*options.hosts, *hosts)))
            yield (
                f"{path} is for {', '.join(hosts)}, not for {', '.join(missing)}; run `leeway cert "
                f"renew server {flags}`"
            )
    wanted = {_normal(host) for host in options.hosts}
    leads = dict(_kubeconfigs(data_dir))
    if leads and not wanted & set(leads.values()):
        there = ", ".join(dict.fromkeys(leads.values()))
        yield (
            f"{', '.join(leads)} lead to {there}, not to {options.hosts[0]}; change the host in "
            "the line `server:` of each"
        )


def _of_algorithm(data_dir: Path, options: InitOptions) -> Iterator[str]:
    folder = data_dir / KEYS_FOLDER
    if not options.algorithm or not folder.is_dir():
        return
    active = load_keyring(folder).active
    if active is not None and active.verification_key.algorithm != options.algorithm:
        yield (
            f"the signing key is for {active.verification_key.algorithm}, not {options.algorithm}; "
            f"run `leeway keys generate --algorithm {options.algorithm}`, then `leeway keys rotate`"
        )


def _kubeconfigs(data_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and the host of each kubeconfig that can be parsed."""
    for path in sorted((data_dir / KUBECONFIG_FOLDER).glob("*.yaml")):
        with suppress(ConfigurationError, OSError):
            yield str(path), _normal(parse_kubeconfig(path.read_bytes(), str(path)).server.host)


def _normal(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()
