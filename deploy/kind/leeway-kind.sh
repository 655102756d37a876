#!/bin/sh
# Creates the files that `kind create cluster` needs for a cluster with Leeway as its token webhook, or as its signer:
#
#   DIR/leeway-data/    a data directory: keys, certificates, kubeconfigs, store (leeway init)
#   DIR/api-server/     files of kube-apiserver: webhook kubeconfigs, authorizers
#   DIR/patches/        with --signer: kubeadm's patch for kube-apiserver
#   DIR/static-pod.yaml Leeway as a static Pod on the control plane
#   DIR/kind.yaml       the configuration for `kind create cluster --config`
#
# It starts nothing. Running it again keeps the data directory and overwrites the other files.
set -eu

usage() {
    cat <<'END'
usage: leeway-kind.sh [--dir DIR] [--name NAME] [--kubernetes-version VERSION] [--image IMAGE] [--authorizer] [--signer]

  --dir DIR                     the directory to write to (./leeway-kind)
  --name NAME                   the name of the cluster (leeway)
  --kubernetes-version VERSION  like v1.34.0: the node image is kindest/node:VERSION (kind's default)
  --image IMAGE                 Leeway's image (leeway-webhook:dev). An image without a slash is not
                                pulled: load it with `kind load docker-image`.
  --authorizer                  use Leeway as an authorizer too, after Node and RBAC (Kubernetes 1.30 and later)
  --signer                      let Leeway sign the cluster's own tokens, instead of being its token webhook
                                (Kubernetes 1.36 and later)
END
}

fail() {
    printf 'leeway-kind.sh: %s\n' "$1" >&2
    exit 2
}

# A YAML string in single quotes.
yaml_string() {
    printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"
}

# One word for a shell.
shell_word() {
    case $1 in
    *[!A-Za-z0-9._/:@+-]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
    *) printf '%s' "$1" ;;
    esac
}

dir=leeway-kind
name=leeway
version=
image=leeway-webhook:dev
authorizer=no
signer=no
while [ $# -gt 0 ]; do
    case $1 in
    --dir | --name | --kubernetes-version | --image)
        [ $# -gt 1 ] || fail "$1 needs a value; see --help"
        case $1 in
        --dir) dir=$2 ;;
        --name) name=$2 ;;
        --kubernetes-version) version=v${2#v} ;;
        --image) image=$2 ;;
        esac
        shift
        ;;
    --authorizer) authorizer=yes ;;
    --signer) signer=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) fail "unknown argument $1; see --help" ;;
    esac
    shift
done

[ -n "$dir" ] || fail "--dir is empty; name a directory"
case $dir in
*'
'*) fail "--dir contains a line break; name another directory" ;;
esac
case $name in
'' | *[!a-z0-9.-]*) fail "--name is '$name'; lower-case letters, digits, dots and dashes are allowed" ;;
esac
case $image in
'' | *[!A-Za-z0-9._/:@-]*) fail "--image is '$image'; write it like leeway-webhook:dev or registry.example/leeway:1.0" ;;
*/*) pull=IfNotPresent ;;
*) pull=Never ;;
esac
# `apiserver.config.k8s.io/v1` came with Kubernetes 1.32, v1beta1 with 1.30.
authorization_version=v1
if [ -n "$version" ]; then
    # grep matches single lines, so a line break is refused first.
    case $version in
    *[!v0-9.]*) valid= ;;
    *) valid=$(printf '%s\n' "$version" | grep -Ex 'v1\.[0-9]{1,3}\.[0-9]{1,3}') || valid= ;;
    esac
    [ -n "$valid" ] ||
        fail "--kubernetes-version is '${version#v}'; write all three numbers, like v1.34.0, as kindest/node is tagged"
    minor=${version#v1.}
    minor=${minor%.*}
    if [ "$authorizer" = yes ] && [ "$minor" -lt 30 ]; then
        fail "--authorizer needs Kubernetes 1.30 or later, --kubernetes-version is $version"
    fi
    if [ "$signer" = yes ] && [ "$minor" -lt 36 ]; then
        fail "--signer needs Kubernetes 1.36 or later, --kubernetes-version is $version"
    fi
    [ "$minor" -ge 32 ] || authorization_version=v1beta1
fi
leeway=${LEEWAY:-leeway}
command -v "$leeway" >/dev/null || fail "there is no command $leeway; install Leeway, or set LEEWAY to where it is"
kubeadm_patch=$(dirname -- "$0")/../kubeadm/patches/kube-apiserver0+json.json
[ "$signer" = no ] || [ -r "$kubeadm_patch" ] || fail "$kubeadm_patch is missing; run the script of a complete checkout"

umask 077
mkdir -p -- "$dir"
dir=$(CDPATH='' cd -- "$dir" && pwd)
case $dir in
*:*) fail "the path $dir contains a colon, which container engines use as a separator; name another with --dir" ;;
esac

# The issuer and the audience that kubeadm gives kube-apiserver; it requests the audience in every review.
cluster=https://kubernetes.default.svc.cluster.local
set -- --audience "$cluster" --audience https://kubernetes.default.svc
[ "$signer" = no ] || set -- --issuer "$cluster" "$@"
"$leeway" init --data-dir "$dir/leeway-data" "$@"
# The section lets the rotation of keys know of the signer.
[ "$signer" = no ] || grep -q '^signer:' "$dir/leeway-data/leeway.yaml" ||
    printf 'signer: {}\n' >>"$dir/leeway-data/leeway.yaml"

mkdir -p "$dir/api-server"
rm -f "$dir/api-server/"*.yaml "$dir/patches/"*.json
if [ "$signer" = yes ]; then
    # kubeadm omits --authorization-mode with --authorization-config, which moves the flags behind it.
    mkdir -p "$dir/patches"
    case $authorizer in
    yes) sed -e 's,command/23",command/22",' -e 's,command/24",command/23",' "$kubeadm_patch" ;;
    no) cat "$kubeadm_patch" ;;
    esac >"$dir/patches/kube-apiserver0+json.json"
else
    # Not with --signer: then the API server verifies every token of this issuer itself, and would ask Leeway, which looks
    # up no objects here, about those that it refuses because their Pod is gone.
    cp "$dir/leeway-data/kubeconfig/tokenreview.yaml" "$dir/api-server/"
fi
if [ "$authorizer" = yes ]; then
    cp "$dir/leeway-data/kubeconfig/subjectaccessreview.yaml" "$dir/api-server/"
    # The cluster must start and run without Leeway. So Leeway is last, is not asked about the cluster's
    # own components (they would get a 500 while it does not answer, and kubeadm init needs its 403),
    # and has no opinion while it does not answer.
    cat >"$dir/api-server/authorization.yaml" <<END
apiVersion: apiserver.config.k8s.io/$authorization_version
kind: AuthorizationConfiguration
authorizers:
- {type: Node, name: node}
- {type: RBAC, name: rbac}
- type: Webhook
  name: leeway
  webhook:
    connectionInfo:
      type: KubeConfigFile
      kubeConfigFile: /etc/kubernetes/leeway/subjectaccessreview.yaml
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    timeout: 3s
    authorizedTTL: 30s
    unauthorizedTTL: 10s
    failurePolicy: NoOpinion
    matchConditions:
    - expression: "!request.user.startsWith('system:') || request.user.startsWith('system:serviceaccount:')"
    - expression: "!('system:masters' in request.groups)"
    - expression: "!('system:nodes' in request.groups)"
    - expression: "!('system:bootstrappers' in request.groups)"
    - expression: "!('kubeadm:cluster-admins' in request.groups)"
    - expression: "!('system:serviceaccounts:kube-system' in request.groups)"
END
fi

{
    cat <<END
apiVersion: v1
kind: Pod
metadata:
  name: leeway
  namespace: kube-system
  labels: {app.kubernetes.io/name: leeway, component: leeway, tier: control-plane}
spec:
  hostNetwork: true
  priorityClassName: system-node-critical
  automountServiceAccountToken: false
  securityContext:
    seccompProfile: {type: RuntimeDefault}
  initContainers:
  # The files belong to the user who ran leeway-kind.sh, but a private key must belong to the server's
  # user. The keys of the CA and of root are not copied.
  - name: copy
    image: $image
    imagePullPolicy: $pull
    command:
    - sh
    - -euc
    - |
      own="-o 65532 -g 65532"
      install -d -m 0700 \$own /var/lib/leeway/data /var/lib/leeway/data/keys /var/lib/leeway/data/tls
      for file in /source/* /source/keys/* /source/tls/server.* /source/tls/ca.cr*; do
        if [ -f "\$file" ]; then
          install -m 0600 \$own "\$file" "/var/lib/leeway/data/\${file#/source/}"
        fi
      done
END
    if [ "$signer" = yes ]; then
        cat <<END
      # Nobody else can reach the socket. The API server's container has all privileges of root.
      install -d -m 0750 \$own /run/leeway
END
    fi
    cat <<END
    securityContext:
      runAsUser: 0
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [CHOWN, DAC_OVERRIDE, FOWNER]}
    volumeMounts:
    - {name: source, mountPath: /source, readOnly: true}
    - {name: data, mountPath: /var/lib/leeway}
END
    [ "$signer" = no ] || echo '    - {name: signer, mountPath: /run/leeway}'
    cat <<END
  containers:
  - name: leeway
    image: $image
    imagePullPolicy: $pull
    args: [serve, --bind, "127.0.0.1:8443"]
    env:
    - {name: LEEWAY_DATA_DIR, value: /var/lib/leeway/data}
    startupProbe:
      httpGet: {host: 127.0.0.1, port: 8443, path: /livez, scheme: HTTPS}
      periodSeconds: 1
      failureThreshold: 60
    livenessProbe:
      httpGet: {host: 127.0.0.1, port: 8443, path: /livez, scheme: HTTPS}
      timeoutSeconds: 3
    readinessProbe:
      httpGet: {host: 127.0.0.1, port: 8443, path: /readyz, scheme: HTTPS}
      periodSeconds: 5
      timeoutSeconds: 3
    resources:
      requests: {cpu: 50m, memory: 192Mi}
    securityContext:
      runAsNonRoot: true
      runAsUser: 65532
      runAsGroup: 65532
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
    - {name: data, mountPath: /var/lib/leeway}
    - {name: tmp, mountPath: /tmp}
END
    if [ "$signer" = yes ]; then
        cat <<END
  - name: signer
    image: $image
    imagePullPolicy: $pull
    args: [signer, --metrics-bind, "127.0.0.1:8444"]
    env:
    - {name: LEEWAY_DATA_DIR, value: /var/lib/leeway/data}
    startupProbe:
      httpGet: {host: 127.0.0.1, port: 8444, path: /livez}
      periodSeconds: 1
      failureThreshold: 60
    livenessProbe:
      httpGet: {host: 127.0.0.1, port: 8444, path: /livez}
      timeoutSeconds: 3
    resources:
      requests: {cpu: 50m, memory: 96Mi}
    securityContext:
      runAsNonRoot: true
      runAsUser: 65532
      runAsGroup: 65532
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
    - {name: data, mountPath: /var/lib/leeway}
    - {name: signer, mountPath: /run/leeway}
END
    fi
    cat <<END
  volumes:
  - name: source
    hostPath: {path: /etc/leeway, type: Directory}
  - name: data
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
END
    if [ "$signer" = yes ]; then
        cat <<END
  - name: signer
    hostPath: {path: /run/leeway, type: DirectoryOrCreate}
END
    fi
} >"$dir/static-pod.yaml"

arguments=
[ "$signer" = yes ] || arguments="authentication-token-webhook-config-file=/etc/kubernetes/leeway/tokenreview.yaml
"
if [ "$authorizer" = yes ]; then
    # kubeadm then omits --authorization-mode, which excludes it.
    arguments="${arguments}authorization-config=/etc/kubernetes/leeway/authorization.yaml
"
fi
# Without its key kube-controller-manager does not sign tokens for Secrets. kind's own argument is repeated, because some
# versions of kind replace the list.
controller_arguments="enable-hostpath-provisioner=true
service-account-private-key-file=
"
volumes='    extraVolumes:
    - name: leeway
      hostPath: /etc/kubernetes/leeway
      mountPath: /etc/kubernetes/leeway
      readOnly: true
      pathType: Directory'

# The patches of one version of kubeadm's configuration; $2 turns an argument into YAML.
kubeadm_patches() {
    cat <<END
- |
  apiVersion: kubeadm.k8s.io/$1
  kind: ClusterConfiguration
END
    if [ -n "$arguments" ]; then
        printf '  apiServer:\n    extraArgs:\n'
        printf '%s' "$arguments" | sed "$2"
        printf '%s\n' "$volumes"
    fi
    [ "$signer" = yes ] || return 0
    printf '  controllerManager:\n    extraArgs:\n'
    printf '%s' "$controller_arguments" | sed "$2"
    cat <<END
- |
  apiVersion: kubeadm.k8s.io/$1
  kind: InitConfiguration
  patches: {directory: /etc/kubernetes/leeway-patches}
END
}

{
    cat <<END
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: $name
nodes:
- role: control-plane
END
    [ -z "$version" ] || printf '  image: kindest/node:%s\n' "$version"
    cat <<END
  extraMounts:
  - containerPath: /etc/kubernetes/manifests/leeway.yaml
    hostPath: $(yaml_string "$dir/static-pod.yaml")
    readOnly: true
  - containerPath: /etc/kubernetes/leeway
    hostPath: $(yaml_string "$dir/api-server")
    readOnly: true
  - containerPath: /etc/leeway
    hostPath: $(yaml_string "$dir/leeway-data")
    readOnly: true
END
    [ "$signer" = no ] || cat <<END
  - containerPath: /etc/kubernetes/leeway-patches
    hostPath: $(yaml_string "$dir/patches")
    readOnly: true
END
    cat <<END
# kind applies only the patches for the version that it writes: v1beta4 from Kubernetes 1.36 on, v1beta3
# before (and always before kind 0.32). The other patches are ignored.
kubeadmConfigPatches:
END
    kubeadm_patches v1beta3 's/^\([^=]*\)=\(.*\)$/      \1: "\2"/'
    kubeadm_patches v1beta4 's/^\([^=]*\)=\(.*\)$/    - name: \1\n      value: "\2"/'
} >"$dir/kind.yaml"

printf 'wrote %s\n' "$dir/static-pod.yaml" "$dir/api-server"
[ "$signer" = no ] || printf 'wrote %s\n' "$dir/patches"
printf 'wrote %s\n' "$dir/kind.yaml"
printf '\nNext:\n'
create="kind create cluster --config $(shell_word "$dir/kind.yaml")"
load="kind load docker-image $image --name $name"
case $pull$signer in
Neveryes)
    # The API server starts only once Leeway runs, so the image has to get there while the cluster is being created.
    printf '  %s &\n  until %s; do sleep 2; done; wait\n' "$create" "$load"
    ;;
Never*) printf '  %s\n  %s\n' "$create" "$load" ;;
*) printf '  %s\n' "$create" ;;
esac
printf '  kubectl --context kind-%s -n kube-system wait pod leeway-%s-control-plane --for condition=Ready --timeout 120s\n' "$name" "$name"
