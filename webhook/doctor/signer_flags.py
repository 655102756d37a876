"""Checks the flags with which kube-apiserver lets ``leeway signer`` sign its tokens.

Source: kubernetes ``pkg/controlplane/apiserver/options`` (``options.go``, ``validation.go``) and
``pkg/serviceaccount/claims.go`` (v1.36).
"""

import posixpath
from typing import Final

from keys.messages import plain, shown, shown_path
from webhook.config.model import Configuration
from webhook.doctor.api_server_flags import ISSUER, SIGNING_ENDPOINT, TOKEN_FILE
from webhook.doctor.findings import Verdict, failure, ok, warning
from webhook.doctor.manifest import Manifest
from webhook.duration import format_duration, parse_duration
from webhook.token.issuer import EXTENDABLE_SECONDS

MAX_EXPIRATION: Final = "service-account-max-token-expiration"
CONTROLLER_KEY: Final = "service-account-private-key-file"
_SIGNING_KEY: Final = "service-account-signing-key-file"
_KEYS: Final = "service-account-key-file"
_OLDEST: Final = (1, 34)
"""The first version that calls v1 of ExternalJWTSigner; before it was v1alpha1."""
_SHORTEST: Final = 3600


def check_endpoint(manifest: Manifest, configuration: Configuration) -> Verdict:
    """Check that kube-apiserver uses the signer's socket, and no key of its own beside it."""
    endpoint, socket = manifest.value(SIGNING_ENDPOINT), configuration.signer_settings.socket
    keys = [f"--{_SIGNING_KEY}"] if manifest.value(_SIGNING_KEY) else []
    # It is a list, in which an empty value is an entry too.
    keys += [f"--{_KEYS}"] if _KEYS in manifest.flags else []
    if not endpoint:
        finding = f"--{SIGNING_ENDPOINT} is not set, so kube-apiserver signs with a key of its own"
        also = f", and remove {' and '.join(keys)}" if keys else ""
        return failure(finding, f"set --{SIGNING_ENDPOINT}={socket}{also}")
    if keys:
        return failure(
            f"kube-apiserver does not start with --{SIGNING_ENDPOINT} beside {' and '.join(keys)}",
            f"remove {' and '.join(keys)}",
        )
    version = manifest.version()
    if version is not None and version < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return failure(
            f"kube-apiserver {version[0]}.{version[1]} calls an older version of the signer's API "
            f"than v1, which {oldest} is the first to call",
            f"upgrade to {oldest} or later, or remove --{SIGNING_ENDPOINT}",
        )
    if endpoint.startswith("@"):
        return failure(
            f"--{SIGNING_ENDPOINT} is {shown(endpoint)}, an abstract socket: anybody could connect",
            f"set --{SIGNING_ENDPOINT}={socket}",
        )
    return _check_socket_mount(manifest, posixpath.normpath(endpoint), posixpath.normpath(socket))


def _check_socket_mount(manifest: Manifest, endpoint: str, socket: str) -> Verdict:
    folder = posixpath.dirname(socket)
    mount = f"a volume with hostPath: {{path: {folder}}}, mounted at {folder}"
    host_path = manifest.host_path(endpoint)
    if not host_path:
        return failure(
            f"--{SIGNING_ENDPOINT} is {shown_path(endpoint)}, which no hostPath volume is mounted "
            "over",
            f"add {mount}, and set --{SIGNING_ENDPOINT}={socket}",
        )
    if host_path != socket:
        return failure(
            f"--{SIGNING_ENDPOINT} is {shown_path(host_path)} on the machine, while the signer's "
            f"socket is {socket}",
            f"set --{SIGNING_ENDPOINT}={socket} with {mount}, or signer.socket in leeway.yaml",
        )
    if any(found.path == endpoint for found in manifest.mounts):
        return failure(
            f"the socket {shown_path(endpoint)} itself is mounted, and the signer makes another "
            "one at each start",
            f"mount its folder instead: {mount}",
        )
    return ok(f"tokens are signed at {socket}, and no key flag is set")


def check_issuer(manifest: Manifest, configuration: Configuration) -> Verdict:
    """Check that kube-apiserver signs for the issuer here; it signs for the first one named."""
    issuers = manifest.flags.get(ISSUER, ())
    issuer = plain(configuration.issuer)
    if not issuers:
        return failure(
            f"--{ISSUER} is not set, so kube-apiserver asks for no signature",
            f"set --{ISSUER}={issuer}",
        )
    if issuers[0] != configuration.issuer:
        return failure(
            f"kube-apiserver's tokens are of issuer {shown(issuers[0])} (the first --{ISSUER}), "
            f"and the signer refuses all that are not of {issuer}",
            f"set issuer in leeway.yaml to the first --{ISSUER}",
        )
    return ok(f"issuer {issuer} in --{ISSUER}")


def check_expiration(manifest: Manifest, configuration: Configuration) -> Verdict:
    """Check that kube-apiserver's longest lifetime is within that of the signer."""
    most = int(configuration.tokens.max_expiration)
    text = manifest.value(MAX_EXPIRATION)
    if not text:
        return ok(f"tokens live for up to {format_duration(most)} (tokens.maxExpiration)")
    try:
        seconds = parse_duration(text, days=False)
    except ValueError as error:
        return failure(f"--{MAX_EXPIRATION}: {error}", f"set --{MAX_EXPIRATION}=24h")
    if seconds > most:
        return failure(
            f"kube-apiserver does not start with --{MAX_EXPIRATION}={shown(text).strip(chr(39))} "
            f"above the signer's {format_duration(most)}",
            f"remove --{MAX_EXPIRATION}, or set tokens.maxExpiration in leeway.yaml to at least it",
        )
    if 0 < seconds < _SHORTEST:
        return failure(
            f"kube-apiserver does not start with --{MAX_EXPIRATION}={shown(text).strip(chr(39))}, "
            f"since it requires {format_duration(_SHORTEST)} or more",
            f"remove --{MAX_EXPIRATION}",
        )
    if 0 < seconds < EXTENDABLE_SECONDS:
        return warning(
            f"--{MAX_EXPIRATION} is {format_duration(seconds)}, below "
            f"{EXTENDABLE_SECONDS}s, so the tokens of Pods are never extended",
            f"remove --{MAX_EXPIRATION}",
        )
    return ok(f"tokens live for up to {format_duration(seconds or most)}")


def check_reviews(manifest: Manifest, configuration: Configuration) -> Verdict:
    """Check that Leeway accepts no token that kube-apiserver itself has refused.

    kube-apiserver asks its webhook about every token that it does not accept itself.
    """
    if not manifest.value(SIGNING_ENDPOINT) or not manifest.value(TOKEN_FILE):
        return ok("no token that kube-apiserver has signed is sent to Leeway by it")
    if configuration.objects.source == "none":
        return warning(
            f"with --{TOKEN_FILE} and objects.source none, Leeway accepts tokens of the cluster "
            "whose Pod or ServiceAccount is gone, which kube-apiserver itself has refused",
            "set objects.source to kubernetes in leeway.yaml",
        )
    return ok(f"bound objects are looked up (objects.source {configuration.objects.source})")


def check_controller_key(manifest: Manifest, name: str) -> Verdict:
    """Check that kube-controller-manager does not sign tokens of Secrets with another key."""
    path = manifest.value(CONTROLLER_KEY)
    if path:
        return warning(
            f"kube-controller-manager signs the tokens of Secrets with {shown_path(path)}, a key "
            "that never rotates",
            f"set --{CONTROLLER_KEY}= to nothing in {name}, unless such Secrets are in use and its "
            "public key is in keys/",
        )
    return ok(f"kube-controller-manager signs no tokens: --{CONTROLLER_KEY} is not set")
