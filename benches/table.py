"""Cells of the tables that the benches print."""

import statistics


def cell(values, digits):
    """Median (lowest..highest); `-` where nothing was measured."""
    if values[0] is None:
        return "-"
    return "%.*f (%.*f..%.*f)" % (digits, statistics.median(values), digits, min(values), digits, max(values))
