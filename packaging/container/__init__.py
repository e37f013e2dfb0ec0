"""Debian in a container: systemd as PID 1, journald, D-Bus, polkit, /dev/kvm.

`debian.py` makes a root file system, once, and keeps it; `container.py` boots it with everything
that is written to it in memory, so that nothing is left when the container or its owner ends.
`make demo` and tests/system use it.
"""
