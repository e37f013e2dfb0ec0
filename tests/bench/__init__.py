"""How little chdebugd disturbs what it measures: each figure beside its peer, in the same run.

`make bench` runs all rows; `python -m tests.bench NAME...` runs some. Repetitions of ours and of
the peer take turns, and what counts is the ratio: other work on the machine strikes both.
"""

import sys
from pathlib import Path

# The container with a real systemd is there.
sys.path.append(str(Path(__file__).parents[2] / "packaging"))
