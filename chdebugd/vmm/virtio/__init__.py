"""Virtio devices on PCI (virtio 1.2): what the guest sets up in Python, what it sends in C.

function (PCI) → transport (common configuration) → engine ~ engine_source.c → queue.h, interrupt.h
block, entropy, net: what each kind of device is; block.h, entropy.h, net.h: what it does;
batch.h: several requests of a disk in one system call
window: where BARs answer; plug: puts it all into a machine
"""
