"""Runs the credential plugins of a kubeconfig: programs that print an ExecCredential.

Source: kubernetes ``k8s.io/client-go/plugin/pkg/client/auth/exec`` and
``client.authentication.k8s.io/v1``.

Invariants:

1. A plugin is killed after PLUGIN_SECONDS, with all that it started. It has no terminal and no
   input. At most MAX_OUTPUT_BYTES of its output are kept.
2. No error shows what a plugin printed: both its outputs may hold credentials.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from signal import SIGKILL
from threading import Event, Timer
from typing import Any, Final

import msgspec

from keys.messages import shown
from webhook.errors import APIServerError

PLUGIN_SECONDS: Final = 30.0
MAX_OUTPUT_BYTES: Final = 1024 * 1024
_EXTENSION: Final = "client.authentication.k8s.io/exec"


class PluginFailedError(APIServerError):
    """A credential plugin returned no credentials."""


class Credentials(msgspec.Struct, rename="camel"):
    """What a plugin returns: a token, or a client certificate and its key as PEM."""

    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: str | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    status: Credentials


def run_plugin(
    section: Mapping[str, Any], cluster: Mapping[str, Any], folder: str, source: str
) -> Credentials:
    """Run the plugin of an ``exec`` section of a kubeconfig in ``folder``.

    ``source`` is the kubeconfig's name in errors. Raises PluginFailedError.
    """
    command, version = section.get("command"), section.get("apiVersion")
    name = f"the credential plugin {shown(command)} of {source}"
    if not isinstance(command, str) or not isinstance(version, str):
        raise PluginFailedError(f"{name} failed: its command or apiVersion is missing")
    words = [command, *map(str, section.get("args") or ())]
    entries = {str(entry["name"]): str(entry["value"]) for entry in section.get("env") or ()}
    spec: dict[str, object] = {"interactive": False}
    if section.get("provideClusterInfo"):
        spec["cluster"] = _cluster_info(cluster)
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    encoded = msgspec.json.encode(info, enc_hook=str).decode("utf-8")
    try:
        code, output = _run(
            words, folder, {**os.environ, **entries, "KUBERNETES_EXEC_INFO": encoded}
        )
    except TimeoutError:
        why = f"it took longer than {PLUGIN_SECONDS:g}s"
        raise PluginFailedError(f"{name} failed: {why}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it cannot be run"
        raise PluginFailedError(f"{name} failed: {why}") from None
    if len(output) > MAX_OUTPUT_BYTES:
        raise PluginFailedError(f"{name} failed: it printed more than {MAX_OUTPUT_BYTES} bytes")
    if code:
        how = f"exit code {code}" if code > 0 else "ended by a signal"
        # Invariant 2.
        advice = "what it printed is not shown, since it may hold credentials: run it by hand"
        raise PluginFailedError(f"{name} failed: {how}; {advice}")
    try:
        found = msgspec.json.decode(output, type=_ExecCredential)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise PluginFailedError(f"{name} failed: it printed no ExecCredential") from None
    status = found.status
    if (found.kind, found.api_version) != ("ExecCredential", version):
        raise PluginFailedError(f"{name} failed: it printed no ExecCredential of {shown(version)}")
    if not status.token and not (status.client_certificate_data and status.client_key_data):
        raise PluginFailedError(
            f"{name} failed: it gave no token, and no certificate together with its key"
        )
    return status


def _run(words: Sequence[str], folder: str, environment: Mapping[str, str]) -> tuple[int, bytes]:
    """Return the exit code and the output of a program, at most MAX_OUTPUT_BYTES and 1.

    Raises TimeoutError, OSError and ValueError.
    """
    late = Event()
    with subprocess.Popen(  # noqa: S603 - what a kubeconfig is for
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder or None,
        env=environment,
        start_new_session=True,
    ) as process:

        def end() -> None:
            # It has not been waited for, so its process group has not been reused.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, SIGKILL)

        def end_late() -> None:
            late.set()
            end()

        timer = Timer(PLUGIN_SECONDS, end_late)  # invariant 1
        timer.start()
        try:
            output = process.stdout.read(MAX_OUTPUT_BYTES + 1) if process.stdout else b""
            if len(output) <= MAX_OUTPUT_BYTES:
                # Wait for its end without reaping it, for the kill below.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            timer.cancel()
            timer.join()
            end()
    if late.is_set():
        raise TimeoutError
    return process.returncode, output


def _cluster_info(cluster: Mapping[str, Any]) -> dict[str, object]:
    info = {key: value for key, value in cluster.items() if key != "extensions"}
    for extension in cluster.get("extensions") or ():
        if extension.get("name") == _EXTENSION:
            info["config"] = extension.get("extension")
    return info
