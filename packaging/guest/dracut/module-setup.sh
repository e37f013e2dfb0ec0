#!/bin/bash
# Boot marks for chdebugd: 0x48 when dracut begins, 0x4f before the root is switched.

check() {
    require_binaries /usr/bin/chdebug-mark || return 1
    return 0
}

depends() {
    return 0
}

install() {
    inst_binary /usr/bin/chdebug-mark
    # shellcheck disable=SC2154 # dracut sets moddir
    inst_hook cmdline 01 "$moddir/mark-begin.sh"
    inst_hook pre-pivot 99 "$moddir/mark-end.sh"
}
