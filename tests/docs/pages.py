"""What the pages need before their first command, and which commands cannot be run as printed.

Every other command of a page is run as printed, in order, in one shell.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
INITIALISED: Final = "umask 077\nleeway init > init.log"
UNTIL_READY: Final = (
    "until curl -sf --cacert leeway-data/tls/ca.crt https://127.0.0.1:8443/readyz > ready.log; "
    "do kill -0 $! || break; sleep 0.1; done"
)
SERVING: Final = f"{INITIALISED}\nleeway serve > server.log 2>&1 &\n{UNTIL_READY}"
# One member, on etcd's own port.
ETCD_RUNNING: Final = """\
etcd --data-dir etcd --log-level error > etcd.log 2>&1 &
until curl -sf http://127.0.0.1:2379/health > health.log; do kill -0 $! || break; sleep 0.1; done"""
WITH_TOKEN: Final = "leeway token create loofah -n argo-run > token"
PYTHON_BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
NEEDS_CLUSTER: Final = "needs a cluster; tests/deploy checks what is applied to it"
NEEDS_CONTAINERS: Final = "needs a container engine; tests/unit/test_packaging.py does its steps"
TAKES_LONG: Final = "takes minutes to hours"


@dataclass(frozen=True)
class Adapted:
    """A command that is run in another form, and why."""

    pattern: str
    replacement: str
    reason: str


@dataclass(frozen=True)
class Page:
    """How the commands of one page are run.

    ``before`` is run first, and ``needs`` are programs without which the page is skipped. The
    tables go by the beginning of a command; one that ends in ``#2`` is for the second time only
    that the page shows that command. ``first`` has what is run before a command, ``not_run`` why a
    command is left out, ``exits`` the exit codes other than 0, and ``not_compared`` why what a
    command prints is another text each time.
    """

    before: str = ""
    needs: tuple[str, ...] = ()
    adapted: tuple[Adapted, ...] = ()
    first: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    not_compared: dict[str, str] = field(default_factory=dict)


SERVE: Final = Adapted(
    r"leeway serve(?: &)?$",
    f"leeway serve > server.log 2>&1 &\n{UNTIL_READY}",
    "its log would come between the output of other commands, and a shell waits for no server",
)
LOG: Final = SERVE.reason
TOOLS: Final = ("curl",)
UNTIL_ETCD: Final = (
    "until etcdctl endpoint health > health.log 2>&1; do kill -0 $! || break; sleep 0.1; done"
)
# An earlier page may have just stopped its members.
WITHOUT_ETCD: Final = """\
for port in 2379 2380 2479 2480 2579 2580; do
  while (: < /dev/tcp/127.0.0.1/$port) 2> port.log; do sleep 0.1; done; done"""
OLD_STORE: Final = """\
umask 077
leeway init --data-dir old-data > old.log
leeway user add alice --no-password --data-dir old-data"""
KUBECTL: Final = ("curl", "kubectl")
CHECKOUT: Final = Adapted(
    r"(?<![\w/.-])(?=deploy/|make demo)", f"{ROOT}/", "the page is read in a checkout"
)
ETC: Final = Adapted(r"(?<=[ =\"])/etc/", "$MACHINE/etc/", "/etc is the machine's own")
NO_SKEW: Final = "the estimates depend on the moment at which each token was made and used"
REVIEW: Final = """\
review() { curl -sf --json @- --cacert leeway-data/tls/ca.crt \
  --cert leeway-data/tls/kube-apiserver.crt --key leeway-data/tls/kube-apiserver.key \
  https://127.0.0.1:8443/apis/authentication.k8s.io/v1/tokenreviews; }
printf '{"spec": {"token": "%s"}}' "$(cat token)" | review > review.log"""
AS_ROOT: Final = (
    "--cacert leeway-data/tls/ca.crt --cert leeway-data/tls/root.crt --key leeway-data/tls/root.key"
)
V3: Final = "https://127.0.0.1:8443/v3/auth"
WITH_OBJECTS: Final = """\
cat >> leeway-data/leeway.yaml <<'END'
objects: {source: file, file: {path: objects.yaml}}
END
cat > leeway-data/objects.yaml <<'END'
apiVersion: v1
kind: ServiceAccount
metadata: {name: loofah, namespace: argo-run, uid: 66bff4eb-5231-4bfa-b116-b20312443c46}
---
apiVersion: v1
kind: Pod
metadata: {name: loofah-0, namespace: argo-run, uid: 0d2f5ac2-55a8-4b02-8b31-f8a90e3fbcb5}
spec: {serviceAccountName: loofah}
END"""
WITH_API_SERVER: Final = f"""\
{SERVING}
cat > kube-apiserver.yaml <<'END'
apiVersion: v1
kind: Pod
metadata: {{name: kube-apiserver, namespace: kube-system}}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --authentication-token-webhook-config-file=/etc/kubernetes/leeway/tokenreview.yaml
    - --authentication-token-webhook-version=v1
    - --authorization-mode=Node,RBAC,Webhook
    - --authorization-webhook-config-file=/etc/kubernetes/leeway/subjectaccessreview.yaml
    - --authorization-webhook-version=v1
    - --service-account-issuer=https://kubernetes.default.svc
    volumeMounts:
    - {{name: leeway, mountPath: /etc/kubernetes/leeway, readOnly: true}}
  volumes:
  - name: leeway
    hostPath: {{path: /etc/kubernetes/leeway, type: Directory}}
END
PYTHONPATH={ROOT} python -m tests.docs.api_server > api-server.log 2>&1 &
until test -e ca.crt; do kill -0 $! || break; sleep 0.1; done"""
FIVE_FAULTS: Final = """\
leeway cert renew server --days 13 > renew.log
leeway role revoke-permission kube-apiserver /leeway/subjectaccessreviews > revoke.log
sed -i 's/Node,RBAC,Webhook/Node,RBAC/' kube-apiserver.yaml
echo 92 > ahead
chmod 644 leeway-data/tls/ca.key
sleep 3"""
TOO_MUCH: Final = "sed -i 's/notBefore: 60s/notBefore: 10m/' leeway-data/leeway.yaml"
ENOUGH: Final = "sed -i 's/notBefore: 10m/notBefore: 60s/' leeway-data/leeway.yaml"
NOT_REACHED: Final = """\
kill %1; wait
cat >> leeway-data/leeway.yaml <<'END'
trustedIssuers:
- url: https://kubernetes.default.svc.cluster.local
  keys: {jwksURL: "https://127.0.0.1:6443/openid/v1/jwks"}
END
leeway serve > server.log 2>&1 &
until curl -s --cacert leeway-data/tls/ca.crt "https://127.0.0.1:8443/readyz?verbose" |
  grep -F "could not be fetched"; do kill -0 $! || break; sleep 0.1; done; sleep 2"""
SIGNER_ARGUMENTS: Final = "--data-dir etc/leeway --metrics-bind 127.0.0.1:8444"
UNTIL_SIGNING: Final = (
    "until test -S run/leeway/signer.sock; do kill -0 $! || break; sleep 0.1; done"
)
WITH_CLUSTER: Final = f"""\
umask 077
mkdir -p etc/kubernetes/manifests run
cp {ROOT}/tests/deploy/kubeadm/kube-apiserver.yaml etc/kubernetes/manifests/
PYTHONPATH={ROOT} python -m tests.docs.cluster > cluster.log 2>&1 &
until test -e ready; do kill -0 $! || break; sleep 0.1; done
export KUBECONFIG=$MACHINE/admin.kubeconfig
export LEEWAY_SIGNER_SOCKET=$MACHINE/run/leeway/signer.sock LEEWAY_SIGNER_REFRESH_HINT=1s
signing() {{ printf %s "$1" > signing
  until test "$(cat ready)" = "$1"; do kill -0 %1 || break; sleep 0.1; done; }}
kubectl create serviceaccount default > account.log"""
# Its threads that wait for a time would never wake up with another monotonic clock.
SIGNER_BEHIND: Final = f"""\
kill $signer; wait $signer
FAKETIME_DONT_FAKE_MONOTONIC=1 faketime -f -90s leeway signer {SIGNER_ARGUMENTS} 2> signer.log &
{UNTIL_SIGNING}
until curl -s http://127.0.0.1:8444/metrics | grep -q 'FetchKeys",result="ok"}} [1-9]'; do
  sleep 0.1; done"""
PATCHED: Final = f"""\
manifest=etc/kubernetes/manifests/kube-apiserver.yaml
{ROOT}/deploy/kubeadm/signer-patch.sh $manifest $LEEWAY_SIGNER_SOCKET > socket.json
kubectl patch --local --type json -f $manifest --patch-file socket.json -o yaml > patched.yaml
mv patched.yaml $manifest"""
SERVER_BEHIND: Final = f"""\
faketime -f -90s leeway serve --data-dir etc/leeway > server.log 2>&1 &
{UNTIL_READY.replace("leeway-data", "etc/leeway")}; sleep 2"""
MEMBER: Final = """\
etcd --listen-client-urls https://127.0.0.1:2379 --advertise-client-urls https://127.0.0.1:2379 \\
  --listen-peer-urls http://127.0.0.1:2380 --client-cert-auth \\
  --trusted-ca-file etcd-certs/etcd-ca.crt --cert-file etcd-certs/etcd-server.crt \\
  --key-file etcd-certs/etcd-server.key"""
PAGES: Final = {
    "README.md": Page(
        before=WITHOUT_ETCD,
        needs=(*TOOLS, "etcd", "etcdctl"),
        adapted=(
            SERVE,
            Adapted(
                "^etcd --data-dir.*$",
                f"etcd --data-dir etcd-data > etcd.log 2>&1 &\n{UNTIL_ETCD}",
                "it needs a moment",
            ),
            Adapted(
                "leeway serve --data-dir one &$",
                f"leeway serve --data-dir one > one.log 2>&1 &\n{UNTIL_READY}".replace(
                    "leeway-data", "one"
                ),
                LOG,
            ),
            Adapted(
                "leeway serve --data-dir two --bind 127.0.0.1:8444 &$",
                "leeway serve --data-dir two --bind 127.0.0.1:8444 > two.log 2>&1 &\n"
                + UNTIL_READY.replace("8443", "8444").replace("leeway-data", "two"),
                LOG,
            ),
            Adapted("^make demo$", f"make --no-print-directory -C {ROOT} demo", "see CHECKOUT"),
            Adapted(r"\. \.venv/bin/activate", ":", "the session has the commands on its PATH"),
        ),
        first={'printf \'{"spec": {"token"': "sleep 3.1"},
        exits={"leeway token review @token --at": 1},
    ),
    "docs/authorizer.md": Page(
        before=INITIALISED,
        first={
            "leeway can-i --user jane --group signers": "leeway role add signer\n"
            "leeway role grant-permission --prefix signer write "
            "/registry/certificates.k8s.io/signers:approve/\n"
            "leeway group grant-role signers signer"
        },
        exits={
            "leeway can-i read --prefix /registry/pods/ ": 1,
            "leeway can-i write /registry/pods:exec/": 1,
            "leeway can-i --user jane \\\n": 1,
        },
    ),
    "docs/backup.md": Page(
        before=f"""\
{INITIALISED}
echo a-good-password > alice.txt
leeway user add alice --password-file alice.txt
leeway role add app
leeway role grant-permission app read --prefix /app/
leeway user grant-role alice app
leeway revoke serviceaccount argo-run/loofah
cat > roles.yaml <<'END'
apiVersion: leeway.dev/v1
kind: Store
roles:
- name: app
  permissions:
  - {{permission: READ, prefix: /app/}}
  - {{permission: WRITE, key: /app/config}}
- name: kube-apiserver
  permissions:
  - {{permission: WRITE, key: /leeway/subjectaccessreviews}}
  - {{permission: WRITE, key: /leeway/tokenreviews}}
groups:
- name: system:serviceaccounts:argo-run
  roles: [app]
auth: {{enabled: true}}
END""",
        exits={"head -14 backup.yaml": 2, "sed 's/READ,": 2},
    ),
    "docs/certificates.md": Page(before=f"{SERVING}\nleeway user add lead --no-password"),
    "docs/chaos.md": Page(not_run={".venv/bin/python -m tests.chaos": TAKES_LONG}),
    "docs/clock-skew.md": Page(
        before=INITIALISED,
        needs=("curl", "faketime"),
        adapted=(SERVE,),
        exits={"leeway token review @token --data-dir then": 1, "leeway skew": 1},
        not_compared={"leeway skew": NO_SKEW, "curl": NO_SKEW},
    ),
    "docs/compose.md": Page(
        needs=("openssl",),
        adapted=(CHECKOUT,),
        not_run={"docker": NEEDS_CONTAINERS, "curl": NEEDS_CONTAINERS},
    ),
    "docs/configuration.md": Page(
        before=INITIALISED,
        needs=("curl", "sqlite3"),
        first={
            "leeway serve": TOO_MUCH,
            "LEEWAY_SERVER_WORKERS=4 leeway config": ENOUGH,
            'curl -s --cacert leeway-data/tls/ca.crt "': f"{ENOUGH}\n{SERVE.replacement}\n"
            f"{TOO_MUCH}\nkill -HUP $!; sleep 2",
            "curl -s --cacert leeway-data/tls/ca.crt '": f"{ENOUGH}\n{NOT_REACHED}",
            "leeway doctor": "leeway user add alice --no-password\nkill %1; wait",
        },
        exits={"leeway serve": 2, "LEEWAY_ISUER": 2},
        not_run={
            "kubectl": NEEDS_CLUSTER,
            "LEEWAY_DATA_DIR=/etc/leeway gunicorn": "tests/deploy/test_gunicorn_conf.py runs it",
        },
    ),
    "docs/curl-and-kubectl.md": Page(
        before=SERVING,
        needs=KUBECTL,
        first={"python review.py": "cat > review.py <<'END'\n{python}END"},
        exits={
            "kubectl --kubeconfig leeway-data/kubeconfig/root.yaml auth can-i list pods "
            "-n argo-run --as alice#1": 1,
            "kubectl --kubeconfig leeway-data/kubeconfig/root.yaml auth can-i list pods -A": 1,
            "kubectl --kubeconfig leeway-data/kubeconfig/root.yaml auth can-i create pods": 1,
        },
    ),
    "docs/doctor.md": Page(
        before=WITH_API_SERVER,
        needs=(*TOOLS, "jq"),
        first={"leeway doctor --api-server https://127.0.0.1:6443#2": FIVE_FAULTS},
        exits={"leeway doctor --api-server https://127.0.0.1:6443#2": 1},
    ),
    "docs/etcd-store.md": Page(
        before=f"{WITHOUT_ETCD}\n{OLD_STORE}",
        needs=("curl", "etcd", "etcdctl", "jq"),
        adapted=(
            Adapted(
                "^member one 2379.*$",
                f"member one 2379 2380; member two 2479 2480; member three 2579 2580\n{UNTIL_ETCD}",
                "a new cluster needs a moment for its first leader",
            ),
            Adapted(r"leeway serve &$", f"leeway serve > first.log 2>&1 &\n{UNTIL_READY}", LOG),
            Adapted(
                r"leeway serve --data-dir other-data --bind 127.0.0.1:8444 &$",
                "leeway serve --data-dir other-data --bind 127.0.0.1:8444 > second.log 2>&1 &\n"
                + UNTIL_READY.replace("8443", "8444")
                + "; sleep 2",
                LOG,
            ),
        ),
        first={
            "review 8444 | jq .status#1": "sleep 3.1",
            "review 8443 | jq -r": "until review 8443 | grep '\"code\"'; do sleep 0.2; done; "
            "sleep 3",
            "review 8443 | jq .status.authenticated": "until review 8443 | grep -q status; do "
            "sleep 0.2; done; sleep 2; until review 8443 | grep -q authenticated; do sleep 0.2; "
            "done",
        },
        not_run={
            "etcdctl auth enable": "the servers of this page show no certificate to etcd",
            "etcdutl snapshot restore": "needs etcdutl 3.6 and members that are stopped",
        },
        exits={"leeway user list": 3},
    ),
    "docs/issuing-tokens.md": Page(
        before=SERVING,
        needs=KUBECTL,
        first={
            "leeway token create loofah -n argo-run --bound-object-kind Pod "
            "--bound-object-name loofah-0": WITH_OBJECTS
        },
        exits={
            "leeway can-i write /leeway/serviceaccounts/kube-system": 1,
            "kubectl --kubeconfig leeway-data/kubeconfig/lead.yaml create token default": 1,
            "kubectl --kubeconfig leeway-data/kubeconfig/root.yaml create token loofah "
            "-n argo-run --duration 5m": 1,
            "leeway token create loofah -n argo-run --bound-object-kind Pod "
            "--bound-object-name loofah-1": 1,
        },
    ),
    "docs/kind.md": Page(
        before="umask 077",
        adapted=(CHECKOUT,),
        not_run={"docker": NEEDS_CONTAINERS, "kubectl": NEEDS_CLUSTER},
    ),
    "docs/kube-apiserver.md": Page(
        before="umask 077; mkdir etc",
        needs=TOOLS,
        adapted=(
            ETC,
            Adapted(
                r"leeway serve --data-dir \$MACHINE/etc/leeway --bind 0.0.0.0:8443",
                "leeway serve --data-dir $MACHINE/etc/leeway --bind 127.0.0.1:8443 "
                "> server.log 2>&1 &\n" + UNTIL_READY.replace("leeway-data", "etc/leeway"),
                f"{SERVE.reason}; nobody else is to reach it",
            ),
        ),
    ),
    "docs/kubeadm.md": Page(
        adapted=(ETC,), not_run={"kubectl": NEEDS_CLUSTER, "kubeadm": NEEDS_CLUSTER}
    ),
    "docs/kubernetes.md": Page(
        needs=("etcd", "openssl"),
        adapted=(CHECKOUT,),
        # In place of the port that kubectl forwards.
        first={
            "export LEEWAY_STORE_ETCD_ENDPOINTS": f"{MEMBER} > etcd.log 2>&1 &\n"
            "until grep -q 'ready to serve client requests' etcd.log; do "
            "kill -0 $! || break; sleep 0.1; done"
        },
        not_run={"kubectl": NEEDS_CLUSTER, "docker": NEEDS_CONTAINERS},
        not_compared={"leeway store status": "the version is that of the test's own etcd"},
    ),
    "docs/logging.md": Page(
        before=f"{SERVING}\n{WITH_TOKEN}\nleeway revoke serviceaccount argo-run/loofah\n{REVIEW}",
        needs=("curl", "jq", "kubectl"),
        first={
            """jq -c 'select(.event == "audit")'""": f"""\
leeway user add alice --no-password
leeway role add team-a
curl -sf {AS_ROOT} --json '{{"name": "team-a", "perm": {{"permType": "WRITE", \
"key": "L3RlYW0tYS8=", "range_end": "L3RlYW0tYTA="}}}}' {V3}/role/grant
curl -s {AS_ROOT} --json '{{"name": "alice", "password": "x"}}' {V3}/authenticate
kubectl --kubeconfig leeway-data/kubeconfig/root.yaml create token curd -n argo-run \
--audience vault > vault.token""",
        },
        not_compared={
            """jq -c 'select(.event == "handshake")'""": "needs clients that fail; "
            "tests/e2e/test_handshakes.py has them"
        },
    ),
    "docs/monitoring.md": Page(
        before=SERVING,
        needs=("curl", "promtool"),
        adapted=(CHECKOUT,),
        not_run={"kubectl": NEEDS_CLUSTER},
    ),
    "docs/objects.md": Page(
        before=f"{INITIALISED}\n{WITH_TOKEN}",
        needs=TOOLS,
        first={
            "leeway token review": WITH_OBJECTS
            + """
leeway token create loofah -n argo-run --bound-object-kind Pod \
  --bound-object-name loofah-0 > token
sed -i 's/0d2f5ac2-55a8-4b02-8b31-f8a90e3fbcb5/8a6bb2f7-3f34-4e48-9e0b-6a2f9d3e1c11/' \
  leeway-data/objects.yaml""",
            "leeway serve": "printf 'a: b\\n- c\\n' > leeway-data/objects.yaml",
        },
        exits={"leeway token review": 1, "leeway serve": 2},
        not_run={
            "curl": "needs an API server that is away; tests/e2e/test_objects.py has one",
        },
    ),
    "docs/performance.md": Page(
        not_run={"make bench": TAKES_LONG, "make profile": TAKES_LONG, "make soak": TAKES_LONG},
    ),
    "docs/revoking.md": Page(before=f"{INITIALISED}\n{WITH_TOKEN}"),
    "docs/roles.md": Page(
        needs=TOOLS,
        adapted=(
            Adapted(
                "^leeway user add --create root$",
                "printf 'a-good-password\\n' | leeway user add --create root",
                "nobody types the password",
            ),
        ),
        first={
            "leeway user add alice": "umask 077; echo another-password > alice.txt",
            f"curl -s {AS_ROOT} \\\n    {V3}/role/get": f"rm -rf leeway-data\n{SERVING}\n"
            "leeway user add alice --password-file alice.txt\n"
            """echo '{"name": "alice", "password": "another-password"}' > login.json""",
        },
        exits={"leeway can-i write hey": 1, "leeway can-i read /xxx": 1},
        not_compared={
            "leeway user add --create root": "a terminal shows the prompts too",
            f"curl -s --cacert leeway-data/tls/ca.crt {V3}/authenticate": "a token is random",
        },
    ),
    "docs/rotating-keys.md": Page(
        before=INITIALISED,
        needs=("curl", "faketime"),
        adapted=(
            Adapted(
                "bAluyg6X5GQdMYmEo0OZ1m83UDGJKW5Q0WmJHz_4OSA",
                """$(leeway keys list | awk '$3 == "verify-only" {print $1}')""",
                "each key has a name of its own",
            ),
        ),
        first={
            "leeway keys list#1": 'leeway() { faketime -f +2h leeway "$@"; }',
            "leeway keys rotate#4": 'leeway() { faketime -f +367d leeway "$@"; }',
            "leeway keys rotate#5": "unset -f leeway; rm -rf leeway-data; leeway init > init.log",
            "curl": SERVING.partition("\n")[2].partition("\n")[2],
        },
        exits={"leeway keys rotate#2": 1},
    ),
    "docs/shared-keys.md": Page(
        before=f"""{ETCD_RUNNING}
{INITIALISED}
setting() {{ sed -i '/^keys:/d' leeway-data/leeway.yaml; echo "$1" >> leeway-data/leeway.yaml; }}
setting 'store: {{etcd: {{endpoints: ["http://127.0.0.1:2379"]}}}}'
leeway init > init-store.log""",
        needs=("curl", "etcd"),
        first={
            "leeway keys move": "setting 'keys: {encryptionKeyFiles: [store.key]}'",
            "leeway keys list#1": (
                "setting 'keys: {store: etcd, encryptionKeyFiles: [store.key]}'"
            ),
            "leeway keys reencrypt": (
                "setting 'keys: {store: etcd, encryptionKeyFiles: [new.key, store.key]}'"
            ),
            "leeway keys list#2": (
                "setting 'keys: {store: etcd, encryptionKeyFiles: [store.key]}'"
            ),
            "leeway keys accept": "setting 'keys: {store: etcd, encryptionKeyFiles: [new.key]}'",
        },
        exits={"leeway keys list#2": 2},
    ),
    "docs/signer.md": Page(
        before=WITH_CLUSTER,
        needs=("kube-apiserver", "kubectl", "curl", "faketime", "jq", "openssl"),
        adapted=(
            CHECKOUT,
            ETC,
            Adapted(r"(?<= )/run/", "$MACHINE/run/", "/run is the machine's own"),
            Adapted(
                r" -o 65532 -g 65532|setpriv --reuid 65532 --regid 65532 --clear-groups ",
                " ",
                "the user of the image is not the one of this test",
            ),
            Adapted(
                "> signer.log 2>&1 &$",
                f"> signer.log 2>&1 &\nsigner=$!; {UNTIL_SIGNING}",
                "what follows needs its socket",
            ),
        ),
        first={
            "kubectl create token default > old-token": "cat etc/kubernetes/before-leeway/sa.pub",
            "kubectl create token default > token": "signing $LEEWAY_SIGNER_SOCKET",
            "kubectl create token default > last-token": "signing keys",
            "kubectl create token default": SIGNER_BEHIND,
            "leeway doctor --data-dir /etc/leeway --manifest": PATCHED,
            "leeway skew": SERVER_BEHIND,
            "kubectl get --raw /openid/v1/jwks | jq -c '[.keys[].alg": "until kubectl get --raw "
            "/openid/v1/jwks | jq -e '.keys[1]' > jwks.log; do sleep 0.2; done",
        },
        exits={
            "kubectl create token default > ": 0,
            "kubectl create token default": 1,
            "leeway skew": 1,
        },
        not_run={
            "chown": "the user of the image is not the one of this test",
            "python3 -m venv": "changes the machine",
            "ln -s": "changes the machine",
            "groupadd": "changes the machine",
            "useradd": "changes the machine",
            "install -m 0644 deploy": "changes the machine; tests/deploy checks the unit",
            "systemctl": "changes the machine",
            "kubectl -n kube-system": NEEDS_CLUSTER,
            "kubeadm": "needs kubeadm; tests/deploy applies the patch to its manifest",
            "install -m 0600 -o 65532 -g 65532 /etc/kubernetes/pki/sa.pub": "for a signer with a "
            "key of its own; tests/apiserver has one",
            "rsync": "needs another node",
            "kubectl --server": "needs another node",
        },
        not_compared={"leeway skew": NO_SKEW},
    ),
    "docs/why-refused.md": Page(
        before=f"{INITIALISED}\n{WITH_TOKEN}",
        first={
            "leeway token review - < review.json": """printf \\
  '{"kind": "TokenReview", "spec": {"token": "%s"}}' "$(cat token)" > review.json"""
        },
        exits={
            "leeway token review @token --a": 1,
            "leeway token review @forged": 1,
            "leeway token review - < review.json": 2,
            "fold": 2,
            "base64": 2,
            "leeway token review token": 2,
        },
    ),
}


def python_of(page: Path, number: int = 0) -> str:
    """Return the text of a Python block of a page."""
    return str(PYTHON_BLOCK.findall(page.read_text("utf-8"))[number])
