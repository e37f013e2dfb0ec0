"""A small virtual machine monitor on /dev/kvm. Nothing here knows of D-Bus or systemd."""
