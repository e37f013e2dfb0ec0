# shellcheck shell=sh
# What the scripts of both machines share.

# Nothing that starts by itself but what a boot needs.
quiet_system() {
    chroot "$1" systemctl --quiet mask systemd-timesyncd.service apt-daily.timer \
        apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
        systemd-networkd-wait-online.service getty@tty1.service e2scrub_reap.service
    chroot "$1" passwd --quiet --delete root
    # mmdebstrap's: nothing may start while it installs.
    rm -f "$1/usr/sbin/policy-rc.d"
    rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin
}

# make_initrd ROOT KERNEL OUTPUT: small, for a disk on virtio-blk.
make_initrd() {
    version=${2##*/vmlinuz-}
    mkdir -p "$1/tmp/initramfs"
    cp -r "$1"/etc/initramfs-tools/. "$1/tmp/initramfs/"
    printf '%s\n' ext4 virtio_pci virtio_blk virtio_rng > "$1/tmp/initramfs/modules"
    echo MODULES=list > "$1/tmp/initramfs/conf.d/lab"
    chroot "$1" mkinitramfs -d /tmp/initramfs -o /tmp/initrd "$version"
    mv "$1/tmp/initrd" "$3"
    rm -rf "$1/tmp/initramfs"
}

# make_disk ROOT OUTPUT SIZE [OPTION...]: an ext4 image with all that is in ROOT.
make_disk() {
    tree=$1 image=$2 size=$3
    shift 3
    # Seen through a bind mount, the root has no /proc and /sys in it.
    mount --bind "$tree" "$tree/mnt"
    mkfs.ext4 -q -F -d "$tree/mnt" "$@" "$image" "$size" > /dev/null
    umount "$tree/mnt"
}
