#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The same as chdebug-mark with nothing but a shell, dd and /dev/port.
set -eu

if [ $# -eq 0 ]; then
    echo "Usage: chdebug-mark.sh CODE... (0 to 255, or 0x0 to 0xff)" >&2
    exit 2
fi
for code in "$@"; do
    case $code in
        0[xX]*) digits=${code#0?} wrong=*[!0-9a-fA-F]* ;;
        *) digits=$code wrong=*[!0-9]* ;;
    esac
    # shellcheck disable=SC2254 # $wrong is a pattern
    case $digits in "" | $wrong | ????*) echo "chdebug-mark.sh: no code: $code" >&2; exit 2 ;; esac
    case $code in 0[0-9]*) echo "chdebug-mark.sh: no code: $code" >&2; exit 2 ;; esac
    if [ $((code)) -gt 255 ]; then
        echo "chdebug-mark.sh: a code is 0 to 255: $code" >&2
        exit 2
    fi
done
if ! [ -w /dev/port ]; then
    echo "chdebug-mark.sh: /dev/port cannot be written: be root; a kernel that is locked down" \
        "(Secure Boot) or built without CONFIG_DEVPORT has no such way" >&2
    exit 1
fi
for code in "$@"; do
    # The octal escape is the one that every printf knows.
    # shellcheck disable=SC2059
    printf "\\$(printf %03o $((code)))" |
        dd of=/dev/port bs=1 seek=128 count=1 conv=notrunc 2>/dev/null || {
        echo "chdebug-mark.sh: the kernel refuses to write to port 0x80 (locked down?)" >&2
        exit 1
    }
done
