"""chdebugctl: boots VMs and tells where their time went.

The way in:  __main__ → arguments → one file a verb → bus_client (D-Bus) and journal
             journal → boots → steps → comparison, plot and exports; output prints

It holds no state of its own: VMs are the daemon's, and the journal is the database of boots.
"""
