"""Whether kube-apiserver's flags make it ask Leeway, as Leeway answers.

Source: kubernetes ``pkg/kubeapiserver/options``, ``authentication.go`` and ``authorization.go``
(v1.36).
"""

from collections.abc import Sequence
from typing import Final

from webhook.doctor.findings import Verdict, failure, ok, warning
from webhook.doctor.manifest import Manifest
from webhook.duration import format_duration, parse_duration

TOKEN_FILE: Final = "authentication-token-webhook-config-file"
TOKEN_VERSION: Final = "authentication-token-webhook-version"
TOKEN_TTL: Final = "authentication-token-webhook-cache-ttl"
ACCESS_FILE: Final = "authorization-webhook-config-file"
ACCESS_VERSION: Final = "authorization-webhook-version"
ACCESS_MODE: Final = "authorization-mode"
ACCESS_CONFIG: Final = "authorization-config"
_ACCESS_TTLS: Final = (
    "authorization-webhook-cache-authorized-ttl",
    "authorization-webhook-cache-unauthorized-ttl",
)
API_AUDIENCES: Final = "api-audiences"
ISSUER: Final = "service-account-issuer"
_SINGLE: Final = (
    TOKEN_FILE,
    TOKEN_VERSION,
    TOKEN_TTL,
    ACCESS_FILE,
    ACCESS_VERSION,
    ACCESS_CONFIG,
    *_ACCESS_TTLS,
)
_VERSIONS: Final = ("v1", "v1beta1")
_DEFAULT_VERSION: Final = "v1beta1"
_DEFAULT_TTL: Final = 120.0
_LONGEST_TTL: Final = 600.0
_FOLDER: Final = "/etc/kubernetes/leeway"


def check_flags_once(manifest: Manifest) -> Verdict:
    """Check that no flag stands twice that counts once: the last one wins without a word."""
    for flag in _SINGLE:
        values = manifest.flags.get(flag, ())
        if len(values) > 1:
            return failure(
                f"--{flag} stands {len(values)} times; only the last, {values[-1][:128]!r}, counts",
                f"remove all but one --{flag}",
            )
    return ok("no webhook flag stands twice")


def check_token_flags(manifest: Manifest) -> Verdict:
    """Check that tokens are asked about, in a version that is served."""
    if not manifest.value(TOKEN_FILE):
        return failure(
            f"--{TOKEN_FILE} is not set, so kube-apiserver asks nobody about tokens",
            f"add --{TOKEN_FILE}={_FOLDER}/tokenreview.yaml",
        )
    return _check_version(manifest, TOKEN_VERSION, "tokens are", TOKEN_FILE)


def _check_version(manifest: Manifest, flag: str, asked: str, file: str) -> Verdict:
    # Both are answered at the URL of either, by the version of the body.
    version = manifest.value(flag)
    if version not in ("", *_VERSIONS):
        finding = f"--{flag} is {version[:32]!r}; {' and '.join(_VERSIONS)} are served"
        return failure(finding, f"set --{flag}=v1")
    shown = version or f"{_DEFAULT_VERSION}, the default"
    return ok(f"{asked} asked about with {shown}, by {manifest.value(file)}")


def check_token_cache(manifest: Manifest) -> Verdict:
    """Say for how long a revoked token goes on working: as long as a verdict is kept."""
    text = manifest.value(TOKEN_TTL)
    fix = f"set --{TOKEN_TTL}={format_duration(_DEFAULT_TTL)}"
    try:
        seconds = parse_duration(text) if text else _DEFAULT_TTL
    except ValueError as error:
        return failure(f"--{TOKEN_TTL} is {error}", fix)
    how = "" if text else ", the default"
    finding = f"a revoked token works for up to {format_duration(seconds)} more ({TOKEN_TTL}{how})"
    return warning(finding, fix) if seconds > _LONGEST_TTL else ok(finding)


def check_access_flags(manifest: Manifest) -> Verdict:
    """Check that access is asked about in a version that is served, or not at all."""
    if manifest.value(ACCESS_CONFIG):
        return _check_access_config(manifest)
    modes, file = manifest.values(ACCESS_MODE), manifest.value(ACCESS_FILE)
    if not file and "Webhook" not in modes:
        return ok("access is not asked about: no webhook among the authorizers")
    if not file:
        return failure(
            f"--{ACCESS_MODE} names Webhook, but --{ACCESS_FILE} is not set",
            f"add --{ACCESS_FILE}={_FOLDER}/subjectaccessreview.yaml",
        )
    if "Webhook" not in modes:
        named = ",".join(modes) or "not set"
        wanted = ",".join([*(modes or ["Node", "RBAC"]), "Webhook"])
        return failure(
            f"--{ACCESS_FILE} is set, but --{ACCESS_MODE} is {named}: nobody is asked about access",
            f"set --{ACCESS_MODE}={wanted}",
        )
    return _check_version(manifest, ACCESS_VERSION, "access is", ACCESS_FILE)


def _check_access_config(manifest: Manifest) -> Verdict:
    others = [f for f in (ACCESS_MODE, ACCESS_FILE, ACCESS_VERSION) if f in manifest.flags]
    if others:
        names = ", ".join(f"--{flag}" for flag in others)
        finding = f"kube-apiserver does not start with --{ACCESS_CONFIG} beside {names}"
        return failure(finding, f"remove {names}")
    return ok(f"access is asked about as {manifest.value(ACCESS_CONFIG)} says; not looked into")


def check_mounts(manifest: Manifest) -> Verdict:
    """Check that the files that the flags name come from the machine that the Pod runs on."""
    found = []
    for flag in (TOKEN_FILE, ACCESS_FILE, ACCESS_CONFIG):
        path = manifest.value(flag)
        if not path:
            continue
        host_path = manifest.host_path(path)
        if not host_path:
            folder = path.rpartition("/")[0] or "/"
            return failure(
                f"--{flag} is {path}, which no hostPath volume is mounted over",
                f"add a volume with hostPath: {{path: {folder}}}, and mount it at {folder}",
            )
        found.append(host_path)
    return ok(f"mounted from the machine: {', '.join(found)}" if found else "no file is needed")


def check_audiences(manifest: Manifest, audiences: Sequence[str]) -> Verdict:
    """Check that what kube-apiserver calls itself is an audience of tokens here.

    Without ``--api-audiences`` its issuers are meant.
    """
    flag = API_AUDIENCES if manifest.values(API_AUDIENCES) else ISSUER
    own = manifest.values(flag)
    shared = [audience for audience in audiences if audience in own]
    if shared:
        return ok(f"{', '.join(shared)} in --{flag}")
    wanted = ",".join([*own, *audiences])
    called = f"--{flag} is {', '.join(own)}" if own else f"--{API_AUDIENCES} is not set"
    return failure(
        f"{called}, while audiences in leeway.yaml is {', '.join(audiences)}: no token is for both",
        f"set --{API_AUDIENCES}={wanted}, or the audiences in leeway.yaml",
    )
