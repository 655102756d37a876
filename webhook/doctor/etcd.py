"""Checks the etcd cluster of the store: each endpoint, and what the store needs of etcd."""

import ssl
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from keys.files import read_public_file
from webhook.assembly import etcd_client_of
from webhook.backends.etcd_head import HeadError, decode
from webhook.backends.etcd_layout import Layout
from webhook.config.load import FILE_NAME
from webhook.config.store import EtcdSection
from webhook.doctor import etcd_members, etcd_web
from webhook.doctor.etcd_members import EndpointFacts, WebFacts, answering
from webhook.doctor.findings import Examination, Prerequisite, Verdict
from webhook.errors import ConfigurationError
from webhook.etcd.errors import CompactedError, EtcdError, PermissionDeniedError
from webhook.etcd.values import GrantedRange, Member

if TYPE_CHECKING:
    from webhook.etcd.client import EtcdClient

CLOCK_SOURCE: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_TIMEOUT_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the endpoints say; ``members`` are those of the cluster."""

    endpoints: tuple[EndpointFacts, ...]
    members: tuple[Member, ...]


def examine_etcd(
    exam: Examination, data_dir: Path, section: EtcdSection, clock_source: Path
) -> Prerequisite[Cluster]:
    """Check the cluster; return it for the checks of what is stored there."""
    edit = f"edit {data_dir / FILE_NAME}"
    with closing(etcd_client_of(data_dir, section)) as client:
        cluster = _examine_cluster(exam, data_dir, section, client, edit)
    exam.check(
        "staleness",
        lambda: etcd_members.check_staleness(section.max_staleness, section.consistency),
        edit,
    )
    exam.check(
        "clock source",
        lambda: etcd_members.check_clock_source(_clock_source(clock_source), section.consistency),
        edit,
    )
    return cluster


def _examine_cluster(
    exam: Examination, data_dir: Path, section: EtcdSection, client: "EtcdClient", edit: str
) -> Prerequisite[Cluster]:
    names = ",".join(section.endpoints)
    health = f"etcdctl endpoint health --endpoints {names}"
    cluster = exam.load(
        "etcd endpoints",
        lambda: _cluster(client, section.endpoints),
        lambda found: etcd_members.check_endpoints(found.endpoints, found.members),
        health,
    )
    web: Prerequisite[list[WebFacts]] = Prerequisite("an endpoint of etcd that answers HTTP/1.1")
    with suppress(Exception):  # each check that needs it says so
        cluster.get()
        pages = etcd_web.ask(section.endpoints, _context(data_dir, section))
        web = Prerequisite("an endpoint of etcd that answers HTTP/1.1", pages or None)

    def found(check: Callable[[Cluster], Verdict]) -> Callable[[], Verdict]:
        return cluster.check_with(check)

    def quotas() -> dict[str, int]:
        with suppress(Exception):
            return {facts.endpoint: facts.quota for facts in web.get()}
        return {}

    exam.check(
        "etcd versions", found(lambda c: etcd_members.check_versions(answering(c.endpoints))), edit
    )
    exam.check(
        "etcd space",
        found(lambda c: etcd_members.check_space(answering(c.endpoints), quotas())),
        health,
    )
    exam.check(
        "etcd alarms",
        found(lambda _: etcd_members.check_alarms(client.alarms(timeout=_TIMEOUT_SECONDS), names)),
        "etcdctl alarm list",
    )
    exam.check(
        "etcd history",
        found(lambda _: _check_history(client, section)),
        health,
    )
    exam.check(
        "etcd rights",
        found(lambda _: _check_rights(client, data_dir, section)),
        "etcdctl user get NAME --detail",
    )
    exam.check("etcd proxies", web.check_with(etcd_members.check_proxies), edit)
    exam.check(
        "etcd clocks",
        web.check_with(lambda w: etcd_members.check_clocks(w, _ahead_of_us(client, section))),
        "date -u   # on each machine",
    )
    return cluster


def _cluster(client: "EtcdClient", endpoints: Sequence[str]) -> Cluster:
    facts = []
    for endpoint in endpoints:
        try:
            status = client.status(endpoint, timeout=_TIMEOUT_SECONDS)
            facts.append(EndpointFacts(endpoint, status))
        except EtcdError as error:
            facts.append(EndpointFacts(endpoint, None, str(error)))
    members: tuple[Member, ...] = ()
    if any(entry.status for entry in facts):
        with suppress(EtcdError):  # with etcd's auth, before the user is right
            members = client.members(timeout=_TIMEOUT_SECONDS)
    return Cluster(tuple(facts), members)


def _check_history(client: "EtcdClient", section: EtcdSection) -> Verdict:
    head = Layout(section.prefix).head
    revision = client.range(head, keys_only=True, timeout=_TIMEOUT_SECONDS).header.revision
    then = revision - etcd_members.MANY_REVISIONS
    is_kept = then > 0
    if is_kept:
        try:
            client.range(head, keys_only=True, revision=then, timeout=_TIMEOUT_SECONDS)
        except CompactedError:
            is_kept = False
    return etcd_members.check_compaction(revision, is_kept)


def _check_rights(client: "EtcdClient", data_dir: Path, section: EtcdSection) -> Verdict:
    user = section.username or _name_in_certificate(data_dir, section)
    if not _is_auth_enabled(client):
        return etcd_members.check_rights(user, {}, section.prefix, is_enabled=False)
    if not user:
        raise ConfigurationError(
            "etcd's auth is enabled, and store.etcd names neither a certFile nor a username"
        )
    roles: dict[str, Sequence[GrantedRange]] = {}
    for role in client.user_roles(user, timeout=_TIMEOUT_SECONDS):
        is_root = role == etcd_members.ROOT_ROLE
        roles[role] = () if is_root else client.role_permissions(role, timeout=_TIMEOUT_SECONDS)
    return etcd_members.check_rights(user, roles, section.prefix, is_enabled=True)


def _is_auth_enabled(client: "EtcdClient") -> bool:
    try:
        return client.auth_status(timeout=_TIMEOUT_SECONDS).enabled
    except PermissionDeniedError:
        return True  # etcd 3.6.13 tells only root


def _name_in_certificate(data_dir: Path, section: EtcdSection) -> str:
    if not section.cert_file:
        return ""
    pem = read_public_file(data_dir / section.cert_file)
    subject = x509.load_pem_x509_certificates(pem)[0].subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _ahead_of_us(client: "EtcdClient", section: EtcdSection) -> tuple[str, float] | None:
    """Return who changed the store last, and how far ahead of ours its clock was at least."""
    found = client.range(Layout(section.prefix).head, timeout=_TIMEOUT_SECONDS).kvs
    if not found:
        return None
    try:
        head = decode(found[0].value)
    except HeadError:  # the store has a check of its own
        return None
    return head.writer, head.wall - time()


def _context(data_dir: Path, section: EtcdSection) -> ssl.SSLContext | None:
    if not section.is_encrypted:
        return None
    context = ssl.create_default_context(cafile=str(data_dir / section.ca_file))
    if section.cert_file:
        context.load_cert_chain(data_dir / section.cert_file, data_dir / section.key_file)
    return context


def _clock_source(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()[:64]
    except OSError:
        return ""
