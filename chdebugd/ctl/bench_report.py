"""What `bench` tells of its runs: a table, and the exports."""

from __future__ import annotations

import csv
import io
from typing import Any

from chdebugd.ctl.measures import FAR_OUT, Measures, measure
from chdebugd.ctl.output import Table, milliseconds
from chdebugd.ctl.samples import TOTAL, Samples
from chdebugd.ctl.saved_runs import document

HEADINGS = ["STEP", "MEDIAN", "MAD", "P5", "P25", "P75", "P95", "P99", "MIN", "MAX"]


class Report:
    """The measures of all steps."""

    def __init__(self, samples: Samples, host: dict[str, str]) -> None:
        self.samples = samples
        self.host = host
        self.measures = {key: measure(figures) for key, figures in samples.all.items()}

    def rows(self) -> list[list[str]]:
        """A row a step; milliseconds but for the first."""
        return [
            [self.samples.labels.get(key, key), *_figures(each)]
            for key, each in self.measures.items()
        ]

    def table(self) -> Table:
        """For people."""
        return Table(HEADINGS, frozenset(HEADINGS[1:]), self.rows())

    def notes(self) -> list[str]:
        """What one must know to read the table."""
        notes = list(self.samples.notes)
        count, far_out = len(self.samples.boots), self.measures[TOTAL].far_out
        if far_out:
            notes.append(
                f"{far_out} of {count} totals lie more than {FAR_OUT:g} MADs from the median: the "
                "host was busy with something else; run again on a quiet one."
            )
        stalled = sum(boot.stalled_usec for boot in self.samples.boots)
        if stalled:
            notes.append(f"Guests waited {stalled} us for the journal; times include that.")
        return notes

    def to_json(self) -> dict[str, Any]:
        """A saved run: measures by step, every boot whole, and the host; times in nanoseconds."""
        steps = {key: _measures(each) for key, each in self.measures.items()}
        samples = self.samples
        for key, figures in samples.all.items():
            steps[key]["samples_nsec"] = figures
        return document(samples.boots, host=self.host, steps=steps, notes=samples.notes)

    def to_csv(self) -> str:
        """A row a step and run: the raw figures."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", "run", "boot", "nsec"])
        for key, figures in self.samples.all.items():
            for run, (boot, nsec) in enumerate(zip(self.samples.boots, figures, strict=True), 1):
                writer.writerow([key, run, boot.boot_id, nsec])
        return text.getvalue()

    def to_markdown(self) -> str:
        """The table and the host, to paste into an issue."""
        lines = [f"| {' | '.join(HEADINGS)} |", f"| --- |{' ---: |' * (len(HEADINGS) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        notes = [f"- {note}" for note in self.notes()]
        host = [f"- {name}: {value}" for name, value in self.host.items()]
        head = f"{len(self.samples.boots)} boots, milliseconds\n"
        return "\n".join([head, *lines, "", *notes, *host]) + "\n"


def _figures(each: Measures) -> list[str]:
    middle = [each.median, each.mad, *each.percentiles.values()]
    return [milliseconds(nsec) for nsec in (*middle, each.low, each.high)]


def _measures(each: Measures) -> dict[str, Any]:
    percentiles = {f"p{percent}_nsec": nsec for percent, nsec in each.percentiles.items()}
    known = {"count": each.count, "median_nsec": each.median, "mad_nsec": each.mad}
    return known | percentiles | {"min_nsec": each.low, "max_nsec": each.high}
