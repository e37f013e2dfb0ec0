"""A real browser without a window: loads a page and runs a script in it."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
TIMEOUT = 120  # seconds
RESULT = re.compile(r'<pre id="result">(.*?)</pre>', re.DOTALL)


def evaluate(page: str, script: str, directory: Path, *, size: str = "1300,1000") -> Any:
    """The value that the function body `script` returns in the page; directory is for its files."""
    told = f"""<script>
    addEventListener("load", () => {{
        const result = document.createElement("pre");
        result.id = "result";
        try {{ result.textContent = JSON.stringify((() => {{ {script} }})()); }}
        catch (error) {{ result.textContent = JSON.stringify("ERROR " + error.stack); }}
        document.body.append(result);
    }});
    </script></body>"""
    path = directory / "page.html"
    # With a mark of its encoding: of a page that names none, a browser guesses it.
    path.write_text(page.replace("</body>", told), encoding="utf-8-sig")
    flags = [*FLAGS, f"--user-data-dir={directory / 'profile'}", f"--window-size={size}"]
    done = subprocess.run(
        ["chromium", *flags, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    found = RESULT.search(done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    value = json.loads(html.unescape(found[1]))
    assert not str(value).startswith("ERROR"), value
    return value
