"""The page of `fedmosaic site check --out`: what a folder holds, as a picture and as tables, for the site alone."""

from __future__ import annotations

from pathlib import Path

from client.leaving import NEVER
from common.files import write_whole
from common.reports.pictures import pattern_chart
from common.reports.render import environment
from simulations.check import Checked, length_of, share_of

_MOST_PATTERNS = 16


def write_check_page(found: Checked, path: Path) -> None:
    """Write one self-contained page, whole or not at all; its owner alone may read it."""
    pages = environment()
    pages.filters |= {"length_of": length_of, "share_of": share_of}
    pictures = {}
    for place, site in enumerate(found.sites):
        names = [facts.name for facts in site.modalities]
        shown = dict(list(site.patterns.items())[:_MOST_PATTERNS])
        pictures[site.name] = pattern_chart(names, shown, name=f"patterns{place}")
    page = pages.get_template("check.html.j2").render(
        sites=found.sites, leaves=found.leaves, never=NEVER, pictures=pictures, most_patterns=_MOST_PATTERNS
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
