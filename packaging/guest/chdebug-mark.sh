#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# chdebug-mark.sh CODE...: as chdebug-mark, with nothing but a shell, dd and /dev/port.
set -eu

usage() {
    echo "Usage: chdebug-mark.sh CODE... (each 0 to 255, or 0x0 to 0xff)" >&2
    exit 2
}

# A leading zero means octal to a shell, so it is refused, as chdebug-mark does.
check() {
    case $1 in
        ?????* | "") usage ;;
        0[xX]*) case ${1#0?} in "" | *[!0-9a-fA-F]*) usage ;; esac ;;
        0?* | *[!0-9]*) usage ;;
    esac
    [ $(($1)) -le 255 ] || usage
}

# The octal escape is the one that every printf knows.
write() {
    # shellcheck disable=SC2059
    printf "\\$(printf %03o "$(($1))")" |
        dd of=/dev/port bs=1 seek=128 count=1 conv=notrunc 2>/dev/null
}

[ $# -gt 0 ] || usage
for code in "$@"; do
    check "$code"
done
if ! [ -w /dev/port ]; then
    echo "chdebug-mark.sh: /dev/port cannot be written; be root, and take chdebug-mark where the" \
        "kernel has no such device" >&2
    exit 1
fi
for code in "$@"; do
    write "$code" || {
        echo "chdebug-mark.sh: the kernel refuses /dev/port: it is locked down (Secure Boot);" \
            "load the module chdebug and take chdebug-mark" >&2
        exit 1
    }
done
