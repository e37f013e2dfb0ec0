"""chdebugd traces how virtual machines boot.

The way in:   __main__ → daemon → manager → vm_starter → vm → vm_link ~ control
              ~ vm_entry → vm_process → vm_life → vmm.machine → vmm.vcpu → vmm/kvm_source.c
And back:     kvm_source.c → trace/ring.h → vm_sinks → trace.journal_sink, trace.log_sink
                                          → signal_pump → event_dbus → the bus
After a death: manager.process_gone → takeover → remains, recovery;  after a restart: adoption
After journald's:  journald_watch → journal_gaps, which asks the journal and sends again.

`X_dbus.py` is the bus face of `X.py`. The daemon never opens /dev/kvm, a VM process never speaks
D-Bus; between them are a socket (control) and the ring (trace.ring).
"""

__version__ = "0.1.0"
