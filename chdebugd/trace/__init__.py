"""From the event ring to the sinks. Nothing here knows of KVM or of D-Bus."""
