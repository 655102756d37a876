"""Checks that kube-apiserver's flags make it send reviews to Leeway, in a version it serves.

Source: kubernetes ``pkg/kubeapiserver/options``, ``authentication.go`` and ``authorization.go``,
and ``k8s.io/apiserver/pkg/apis/apiserver/v1`` (v1.36).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from keys.messages import plain, shown, shown_path
from webhook.config.yaml_text import parse_yaml
from webhook.doctor.findings import Verdict, failure, ok, warning
from webhook.doctor.manifest import Manifest
from webhook.duration import format_duration, parse_duration
from webhook.errors import ConfigurationError

TOKEN_FILE: Final = "authentication-token-webhook-config-file"
TOKEN_VERSION: Final = "authentication-token-webhook-version"
TOKEN_TTL: Final = "authentication-token-webhook-cache-ttl"
ACCESS_FILE: Final = "authorization-webhook-config-file"
ACCESS_VERSION: Final = "authorization-webhook-version"
ACCESS_MODE: Final = "authorization-mode"
ACCESS_CONFIG: Final = "authorization-config"
ALLOWED_TTL: Final = "authorization-webhook-cache-authorized-ttl"
REFUSED_TTL: Final = "authorization-webhook-cache-unauthorized-ttl"
API_AUDIENCES: Final = "api-audiences"
ISSUER: Final = "service-account-issuer"
SIGNING_ENDPOINT: Final = "service-account-signing-endpoint"
_SINGLE: Final = (
    TOKEN_FILE,
    TOKEN_VERSION,
    TOKEN_TTL,
    ACCESS_FILE,
    ACCESS_VERSION,
    ACCESS_CONFIG,
    ALLOWED_TTL,
    REFUSED_TTL,
    SIGNING_ENDPOINT,
)
_VERSIONS: Final = ("v1", "v1beta1")
_DEFAULT_VERSION: Final = "v1beta1"
_DEFAULT_TTL: Final = 120.0
_DEFAULT_ALLOWED_TTL: Final = 300.0
_DEFAULT_REFUSED_TTL: Final = 30.0
_LONGEST_TTL: Final = 600.0
_FOLDER: Final = "/etc/kubernetes/leeway"


def check_flags_once(manifest: Manifest) -> Verdict:
    """Check that no flag with a single value appears twice: kube-apiserver uses the last one."""
    for flag in _SINGLE:
        values = manifest.flags.get(flag, ())
        if len(values) > 1:
            return failure(
                f"--{flag} appears {len(values)} times; the last, {shown(values[-1])}, is used",
                f"remove all but one --{flag}",
            )
    return ok("no webhook flag appears twice")


def sends_reviews(manifest: Manifest) -> bool:
    """Return whether a flag names a webhook, or a file for one."""
    files = any(manifest.value(flag) for flag in (TOKEN_FILE, ACCESS_FILE, ACCESS_CONFIG))
    return files or "Webhook" in manifest.values(ACCESS_MODE)


def check_token_flags(manifest: Manifest) -> Verdict:
    """Check that TokenReviews are sent, in a version that Leeway serves."""
    if not manifest.value(TOKEN_FILE) and manifest.value(SIGNING_ENDPOINT):
        return ok("no TokenReviews are sent: kube-apiserver verifies the signer's tokens itself")
    if not manifest.value(TOKEN_FILE):
        return failure(
            f"--{TOKEN_FILE} is not set, so kube-apiserver sends no TokenReviews",
            f"add --{TOKEN_FILE}={_FOLDER}/tokenreview.yaml",
        )
    return _check_version(manifest, TOKEN_VERSION, "TokenReviews", TOKEN_FILE)


def _check_version(manifest: Manifest, flag: str, reviews: str, file: str) -> Verdict:
    # Both versions are answered at the URL of either, in the version of the body.
    version = manifest.value(flag)
    if version not in ("", *_VERSIONS):
        finding = f"--{flag} is {shown(version, 32)}; {' and '.join(_VERSIONS)} are served"
        return failure(finding, f"set --{flag}=v1")
    used = version or f"{_DEFAULT_VERSION}, the default"
    return ok(f"{reviews} of {used}, to the server in {shown_path(manifest.value(file))}")


def check_token_cache(manifest: Manifest) -> Verdict:
    """Check for how long a revoked token still works: as long as a verdict is cached."""
    if manifest.value(SIGNING_ENDPOINT):
        return ok(
            "kube-apiserver verifies a token that the signer has signed itself, so revoking it has "
            "no effect there"
        )
    fix = f"set --{TOKEN_TTL}={format_duration(_DEFAULT_TTL)}"
    try:
        seconds, words = _kept(manifest.value(TOKEN_TTL), _DEFAULT_TTL, TOKEN_TTL)
    except ValueError as error:
        return failure(str(error), fix)
    finding = f"a revoked token works for up to {words}"
    return warning(finding, fix) if seconds > _LONGEST_TTL else ok(finding)


def _kept(text: str, default: float, name: str) -> tuple[float, str]:
    """Return how long an answer is cached, in seconds and as a phrase.

    An empty text means the default. Raises ValueError, which names the setting.
    """
    try:
        seconds = parse_duration(text, days=False) if text else default
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return seconds, f"{format_duration(seconds)} more ({name}{'' if text else ', the default'})"


def check_access_flags(manifest: Manifest) -> Verdict:
    """Check that SubjectAccessReviews are sent in a version that Leeway serves, or not at all."""
    if manifest.value(ACCESS_CONFIG):
        return _check_access_config(manifest)
    modes, file = manifest.values(ACCESS_MODE), manifest.value(ACCESS_FILE)
    if not file and "Webhook" not in modes:
        return ok("no SubjectAccessReviews are sent: no webhook among the authorizers")
    if not file:
        return failure(
            f"--{ACCESS_MODE} names Webhook, but --{ACCESS_FILE} is not set",
            f"add --{ACCESS_FILE}={_FOLDER}/subjectaccessreview.yaml",
        )
    if "Webhook" not in modes:
        named = ",".join(modes) or "not set"
        wanted = ",".join([*(modes or ["Node", "RBAC"]), "Webhook"])
        return failure(
            f"--{ACCESS_FILE} is set, but --{ACCESS_MODE} is {named}, without Webhook, so that "
            "kube-apiserver sends no SubjectAccessReviews",
            f"set --{ACCESS_MODE}={wanted}",
        )
    return _check_version(manifest, ACCESS_VERSION, "SubjectAccessReviews", ACCESS_FILE)


def _check_access_config(manifest: Manifest) -> Verdict:
    others = [f for f in (ACCESS_MODE, ACCESS_FILE, ACCESS_VERSION) if f in manifest.flags]
    if others:
        names = ", ".join(f"--{flag}" for flag in others)
        finding = f"kube-apiserver does not start with --{ACCESS_CONFIG} beside {names}"
        return failure(finding, f"remove {names}")
    return ok(
        f"SubjectAccessReviews as {shown_path(manifest.value(ACCESS_CONFIG))} says, which is not "
        "checked here"
    )


def check_access_cache(manifest: Manifest, authorizers: bytes | None) -> Verdict:
    """Check for how long a revoked permission still works.

    ``authorizers`` is the content of the file of ``--authorization-config``, None if it cannot be
    read here.
    """
    path = manifest.value(ACCESS_CONFIG)
    try:
        if path:
            return _access_config_cache(path, authorizers)
        if not (manifest.value(ACCESS_FILE) and "Webhook" in manifest.values(ACCESS_MODE)):
            return ok("nothing is cached, as no SubjectAccessReviews are sent")
        refused = _kept(manifest.value(REFUSED_TTL), _DEFAULT_REFUSED_TTL, REFUSED_TTL)
        allowed = _kept(manifest.value(ALLOWED_TTL), _DEFAULT_ALLOWED_TTL, ALLOWED_TTL)
    except (ConfigurationError, ValueError) as error:
        fix = f"edit {path}" if path else f"set --{ALLOWED_TTL}=30s and --{REFUSED_TTL}=10s"
        return failure(str(error), fix)
    return _access_cache([allowed], [refused], f"set --{ALLOWED_TTL}=30s")


def _access_config_cache(path: str, authorizers: bytes | None) -> Verdict:
    if authorizers is None:
        default = format_duration(_DEFAULT_ALLOWED_TTL)
        return ok(
            f"a revoked permission works for as long as {path} sets, {default} by "
            "default; the file is not on this machine"
        )
    document = parse_yaml(authorizers, path)
    if document.get("kind") != "AuthorizationConfiguration":
        return failure(f"{path} is not an AuthorizationConfiguration", f"edit {path}")
    allowed, refused = [], []
    entries = document.get("authorizers")
    for entry in entries if isinstance(entries, list) else []:
        webhook = entry.get("webhook") if isinstance(entry, dict) else None
        if isinstance(webhook, dict):
            name = f"of authorizer {str(entry.get('name'))[:64]}"
            allowed.append(_kept_by(webhook, "Authorized", _DEFAULT_ALLOWED_TTL, name))
            refused.append(_kept_by(webhook, "Unauthorized", _DEFAULT_REFUSED_TTL, name))
    if not allowed:
        return ok(f"no authorization answer is cached: {path} names no webhook")
    return _access_cache(allowed, refused, f"set authorizedTTL: 30s in {path}")


def _kept_by(
    webhook: Mapping[Any, Any], answers: str, default: float, name: str
) -> tuple[float, str]:
    field = f"{answers.lower()}TTL"
    if webhook.get(f"cache{answers}Requests") is False:
        return 0.0, f"0s more (cache{answers}Requests {name})"
    text = str(webhook.get(field) or "")
    # kube-apiserver takes 0 for the default here.
    return _kept("" if text in ("0", "0s") else text, default, f"{field} {name}")


def _access_cache(
    allowed: Sequence[tuple[float, str]], refused: Sequence[tuple[float, str]], fix: str
) -> Verdict:
    longest, words = max(allowed)
    wait = format_duration(max(refused)[0])
    finding = f"a revoked permission works for up to {words}; a new one may take {wait}"
    return warning(finding, fix) if longest > _LONGEST_TTL else ok(finding)


def check_mounts(manifest: Manifest) -> Verdict:
    """Check that the files in the flags are mounted from the machine that the Pod runs on."""
    found = []
    for flag in (TOKEN_FILE, ACCESS_FILE, ACCESS_CONFIG):
        path = manifest.value(flag)
        if not path:
            continue
        host_path = manifest.host_path(path)
        if not host_path:
            folder = shown_path(path.rpartition("/")[0] or "/")
            return failure(
                f"--{flag} is {shown_path(path)}, which no hostPath volume is mounted over",
                f"add a volume with hostPath: {{path: {folder}}}, and mount it at {folder}",
            )
        found.append(host_path)
    return ok(
        f"mounted from the machine: {', '.join(map(shown_path, found))}"
        if found
        else "no file is needed"
    )


def check_audiences(manifest: Manifest, audiences: Sequence[str]) -> Verdict:
    """Check that one of kube-apiserver's audiences is configured here.

    Without ``--api-audiences`` they are its issuers.
    """
    flag = API_AUDIENCES if manifest.values(API_AUDIENCES) else ISSUER
    own = manifest.values(flag)
    shared = [audience for audience in audiences if audience in own]
    if shared:
        return ok(f"{', '.join(map(plain, shared))} in --{flag}")
    wanted = ",".join(map(plain, [*own, *audiences]))
    called = f"--{flag} is {', '.join(map(plain, own))}" if own else f"--{API_AUDIENCES} is not set"
    return failure(
        f"{called}, while audiences in leeway.yaml is {', '.join(map(plain, audiences))}: no token "
        "is for both",
        f"set --{API_AUDIENCES}={wanted}, or the audiences in leeway.yaml",
    )
