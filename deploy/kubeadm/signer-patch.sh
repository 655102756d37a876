#!/bin/sh
# Makes the kubeadm patch with which an API server asks `leeway signer` for its service account tokens:
#
#   signer-patch.sh -o PATCHES/kube-apiserver0+json.json /etc/kubernetes/manifests/kube-apiserver.yaml
#
# A JSON patch names a flag by its position, which depends on the other flags. So the positions are those of the given
# manifest, and the patch tests each flag before it removes it: kubeadm refuses a manifest whose flags are elsewhere.
# The manifest itself is not changed. The file is replaced only by a complete patch: kubeadm ignores an empty one, and then
# writes a manifest with the key flags.
set -eu

fail() {
    printf 'signer-patch.sh: %s\n' "$1" >&2
    exit 2
}

socket=/run/leeway/signer.sock
output=
case ${1-} in
-h | --help)
    echo "usage: signer-patch.sh [-o FILE] MANIFEST [SOCKET]"
    echo
    echo "  -o FILE   where to write the patch, instead of standard output; its directory must exist"
    echo "  MANIFEST  kube-apiserver.yaml as kubeadm writes it, before it is patched"
    echo "  SOCKET    the socket of \`leeway signer\` ($socket)"
    exit 0
    ;;
-o)
    { [ $# -ge 2 ] && [ -n "$2" ]; } || fail "-o needs the name of a file"
    output=$2
    shift 2
    case $output in */*) ;; *) output=./$output ;; esac
    [ -d "${output%/*}/" ] || fail "${output%/*} is not a directory; create it first"
    [ ! -d "$output" ] || fail "$output is a directory; name a file in it, like kube-apiserver0+json.json"
    ;;
esac
{ [ $# -eq 1 ] || [ $# -eq 2 ]; } || fail "name the manifest of kube-apiserver, and the socket if it is another; see --help"
manifest=$1
socket=${2-$socket}
[ -r "$manifest" ] || fail "$manifest cannot be read; name the manifest of kube-apiserver"
case $socket in
*[!A-Za-z0-9._/-]*) fail "the socket is '$socket'; letters, digits and ._/- are allowed in its path" ;;
/*/*) ;;
*) fail "the socket is '$socket'; it needs an absolute path, in a directory of its own" ;;
esac
folder=${socket%/*}
case $folder in
/run | /tmp | /var/run | /etc)
    fail "the socket is in $folder, which an API server should not mount; use a directory of its own, like /run/leeway"
    ;;
esac

if [ -n "$output" ]; then
    # kubeadm reads only *.json and *.yaml in the directory.
    temporary=$(mktemp "${output%/*}/.signer-patch.XXXXXX")
    trap 'rm -f "$temporary"' EXIT
    exec > "$temporary"
fi

# The items of the first `command:`, each on a line of its own, as kubeadm writes them.
awk -v socket="$socket" -v folder="$folder" '
function fail(text) {
    print "signer-patch.sh: " FILENAME " " text | "cat >&2"
    failed = 1
    exit 2
}
!found && /^ *(- )?command:$/ { found = inside = 1; next }
inside && /^ *- / { sub(/^ *- /, ""); flags[count++] = $0; next }
{ inside = 0 }
END {
    if (failed) exit 2
    if (flags[0] != "kube-apiserver") fail("is not a manifest of kube-apiserver as kubeadm writes it")
    signing = -1
    for (i = 1; i < count; i++) {
        if (flags[i] ~ /^--service-account-signing-endpoint=/) fail("has that flag already: " flags[i] "; it was patched before, so keep that patch")
        if (flags[i] ~ /^--service-account-signing-key-file=/) signing = i
        if (flags[i] ~ /^--service-account-key-file=/) keys++
        if (flags[i] ~ /^--service-account-(signing-)?key-file=/ && flags[i] ~ /["\\]/)
            fail("has a flag with a quote or a backslash: " flags[i])
    }
    if (signing < 0) fail("has no flag --service-account-signing-key-file")
    if (!keys) fail("has no flag --service-account-key-file")
    command = "/spec/containers/0/command/"
    printf "[\n  {\"op\": \"test\", \"path\": \"%s0\", \"value\": \"kube-apiserver\"},\n", command
    printf "  {\"op\": \"test\", \"path\": \"%s%d\", \"value\": \"%s\"},\n", command, signing, flags[signing]
    printf "  {\"op\": \"replace\", \"path\": \"%s%d\",\n", command, signing
    printf "   \"value\": \"--service-account-signing-endpoint=%s\"},\n", socket
    # From the last to the first, since each removal moves the flags behind it.
    for (i = count - 1; i > 0; i--) if (flags[i] ~ /^--service-account-key-file=/) {
        printf "  {\"op\": \"test\", \"path\": \"%s%d\", \"value\": \"%s\"},\n", command, i, flags[i]
        printf "  {\"op\": \"remove\", \"path\": \"%s%d\"},\n", command, i
    }
    print "  {\"op\": \"add\", \"path\": \"/spec/containers/0/volumeMounts/-\","
    printf "   \"value\": {\"name\": \"leeway-signer\", \"mountPath\": \"%s\", \"readOnly\": true}},\n", folder
    print "  {\"op\": \"add\", \"path\": \"/spec/volumes/-\","
    print "   \"value\": {\"name\": \"leeway-signer\","
    printf "             \"hostPath\": {\"path\": \"%s\", \"type\": \"DirectoryOrCreate\"}}}\n]\n", folder
}' "$manifest"
[ -z "$output" ] || mv -f "$temporary" "$output"
