#!/bin/sh
# Creates the certificates of an etcd that only Leeway uses, with openssl:
#
#   DIR/etcd-ca.crt      DIR/etcd-ca.key        a CA of its own; keep its key away from the machines
#   DIR/etcd-server.crt  DIR/etcd-server.key    for all members, as servers and as peers
#   DIR/etcd-client.crt  DIR/etcd-client.key    for Leeway
#
# It overwrites nothing: to renew a certificate, remove it and its key, and run this again.
set -eu

usage() {
    cat <<'END'
usage: make-certs.sh [--dir DIR] [--days DAYS] --host NAME_OR_IP [--host NAME_OR_IP]...

  --dir DIR           the directory to write to (.)
  --days DAYS         how long the two certificates are valid (365)
  --host NAME_OR_IP   a name or an address under which a member is reached
END
}

fail() {
    printf 'make-certs.sh: %s\n' "$1" >&2
    exit 2
}

dir=.
days=365
names=
while [ $# -gt 0 ]; do
    case $1 in
    --dir | --days | --host)
        [ $# -gt 1 ] || fail "$1 needs a value; see --help"
        case $1 in
        --dir) dir=$2 ;;
        --days) days=$2 ;;
        --host)
            case $2 in
            '' | *[!A-Za-z0-9.:*-]*) fail "--host is '$2'; a DNS name or an IP address is allowed" ;;
            *:*) kind=IP ;;
            *[!0-9.]*) kind=DNS ;;
            *) kind=IP ;;
            esac
            names=$names${names:+,}$kind:$2
            ;;
        esac
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) fail "unknown argument $1; see --help" ;;
    esac
    shift
done
[ -n "$dir" ] || fail "--dir is empty; name a directory"
[ -n "$names" ] || fail "give the name or address of each member with --host; see --help"
case $days in
'' | *[!0-9]* | 0* | ?????*) fail "--days is '$days'; 1 to 3650 are allowed" ;;
esac
[ "$days" -le 3650 ] || fail "--days is '$days'; 1 to 3650 are allowed"
case $(openssl version 2>/dev/null) in
'OpenSSL '[3-9]*) ;;
*) fail "OpenSSL 3 or later is needed; install it" ;;
esac

umask 077
mkdir -p -- "$dir"
cd -- "$dir"
work=$(mktemp -d ./.certs-XXXXXX)
trap 'rm -rf "$work"' EXIT

# Creates the key and then the certificate NAME. It is moved into place last, complete.
create() {
    name=$1
    subject=$2
    extensions=$3
    shift 3
    if [ -e "$name.crt" ]; then
        printf '%s/%s.crt is there already\n' "$dir" "$name"
        return
    fi
    [ "$name" = etcd-ca ] || [ -r etcd-ca.key ] || fail "$dir/etcd-ca.key, which signs $name.crt, is missing; put it there"
    [ ! -e "$name.key" ] || fail "$dir/$name.key is there without its certificate; remove it, or restore $name.crt"
    printf '[req]\ndistinguished_name=dn\n[dn]\n[extensions]\n%s\n' "$extensions" >"$work/openssl.cnf"
    openssl ecparam -name prime256v1 -genkey -noout -out "$work/$name.key"
    openssl req -new -x509 -sha256 -config "$work/openssl.cnf" -extensions extensions \
        -key "$work/$name.key" -subj "$subject" -out "$work/$name.crt" "$@"
    mv "$work/$name.key" "$work/$name.crt" .
    printf 'created %s/%s.crt and %s.key\n' "$dir" "$name" "$name"
}

create etcd-ca '/CN=etcd of Leeway' 'basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash' -days 3650
# A member is the client of its peers.
create etcd-server '/CN=etcd' "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=$names
authorityKeyIdentifier=keyid" -CA etcd-ca.crt -CAkey etcd-ca.key -days "$days"
create etcd-client '/CN=leeway' 'basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=clientAuth
authorityKeyIdentifier=keyid' -CA etcd-ca.crt -CAkey etcd-ca.key -days "$days"
