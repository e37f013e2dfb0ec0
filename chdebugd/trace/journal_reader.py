"""What the journal says it has; the one door to python-systemd's reader."""

from __future__ import annotations

from chdebugd.trace.journal import MessageId


def last_sequence(boot_id: str) -> int:
    """The highest SEQ of the boot's events in the journal, 0 where it has none.

    Takes a sweep over the newest of these entries; call it off the event loop.
    """
    from systemd import journal

    with journal.Reader() as reader:
        reader.add_match(MESSAGE_ID=MessageId.EVENT.value)
        reader.add_match(VM_BOOT=boot_id)
        reader.seek_tail()
        newest = reader.get_previous()
        return int(newest["SEQ"]) if newest else 0
