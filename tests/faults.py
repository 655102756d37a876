"""Faults that real use and an attacker found in the first version, and the tests that hold each.

A test is marked with the numbers of its faults: ``@pytest.mark.fault(43)``. ``make faults`` lists
those tests, and ends with the faults that have no test.
"""

from collections.abc import Iterable

FAULTS = {
    1: "A kube-apiserver without version flags posts v1beta1 bodies to the v1 path: answered",
    2: "A header `kid` that is empty counts as absent",
    3: "The same key twice in a JWKS, with and without its `kid`, is one key",
    4: "A key that Leeway never uses is skipped in a JWKS, with one warning",
    5: "A trusted issuer with key files may be any text, and more than one may share an issuer",
    6: "A legacy token whose Secret has the label `legacy-token-invalid-since` is refused",
    7: "`leeway token create` looks its objects up as the server does",
    8: "`leeway init` refuses a key file that the server would refuse",
    9: "A token bound to a kind of object that Leeway does not know is refused",
    10: "A TokenRequest without `spec` gets the defaults; another account's `metadata.uid` is 409",
    11: "Names and subresources with a slash have a key that a grant can cover",
    12: "Unknown fields of a protocol buffer are ignored, as in JSON",
    13: "`/readyz?exclude=CHECK` and `/readyz/CHECK` work as in Kubernetes",
    14: "`/v3` takes base64 and enums as etcd's gateway does",
    15: "An `Authorization` header of another form is refused with what to write",
    16: "A configured value that could be a secret is in no message",
    17: "A store's file that is replaced or removed is noticed at the next request",
    18: "`/readyz` checks the store",
    19: "A server stops within three seconds of a signal at any moment of its start",
    20: "Everything that is fetched has one deadline, however slowly it arrives",
    21: "A request is counted once, and a fall-back is counted as one",
    22: "A reload leaves no thread behind, and no constructor writes",
    23: "The server prints one line once it is ready",
    24: "Certificates of CAs without key identifiers are trusted for outgoing connections",
    25: "A token file may end in a newline, and a token that cannot be sent is named",
    26: "A credential plugin that fails is named, and nothing is sent without credentials",
    27: "`proxy-url` of a kubeconfig is used, or refused with what is allowed",
    28: "`leeway doctor` finds kube-apiserver in the manifests of kops, kube-up and hyperkube",
    29: "`leeway doctor` judges a certificate chain as OpenSSL does",
    30: "`leeway doctor` says how long an API server's caches outlive a revocation",
    31: "`leeway token review --at` counts from a claim of the token too",
    32: "A store command creates no store unless told to",
    33: "A command run as root leaves the data directory readable for its owner",
    34: "A token pasted in another form is recognised, with what to do",
    35: "`--version`, `--data-dir` before the command, unknown variables, and ctrl-C at a prompt",
    36: "What cannot be opened or reached exits with 3",
    37: "etcd's `invalid auth management` is followed by what to do",
    38: "`leeway init` says where its flags differ from what is there",
    39: "Failed handshakes are logged with their reason, and the pages' commands work as printed",
    40: "No message has Python's own words",
    41: "A server is named in one way everywhere; `NO_COLOR` holds; each `--help` has an example",
    42: "`leeway cert` creates, renews, revokes and lists client certificates",
    43: "Every parser of untrusted bytes is linear",
    44: "No TLS session is resumed",
    45: "A token is extended to a year only for an object that was looked up",
    46: "`leeway revoke serviceaccount` covers tokens of a signer whose clock is ahead",
    47: "Anonymous log-ins wait in a bounded queue, in which client addresses take turns",
    48: "Connections without a certificate are bounded, and an idle one makes room for a new one",
    49: "No private file may be readable by others, whatever it is for",
    50: "A chunked request may be cut anywhere",
    51: "No control character reaches a terminal or a log, and no file is written through a link",
    52: "Verbs that act or grant more than they change need a grant of their own",
    53: "A user of the cluster called `root` is not Leeway's `root`",
    54: "A grant of READ on `/` warns that it covers every object",
    55: "`mapping.roleGroupPrefix` cannot begin with `system:`",
    56: "No page of another site can change anything with a browser's client certificate",
    57: "A connection ends when its certificate is revoked; failed handshakes are counted",
    58: "A password is never needed as an argument",
    59: "No Pod mounts a private key that it does not need",
    60: "A service account key's signature on an auth token serves as nothing else",
    61: "Dependencies have floors without known vulnerabilities, and the image a lock with hashes",
    62: "TokenRequests are checked in kube-apiserver's order, with its codes",
}


def without_test(numbers: Iterable[int]) -> list[int]:
    """Return the faults that none of the numbers names, in order."""
    return sorted(FAULTS.keys() - set(numbers))
