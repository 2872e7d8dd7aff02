"""Pages to look at and listen to: ``report.html`` of one run, or a comparison of several.

A page is one HTML file without references to other files or to the network.
"""

from wavedil.report.files import MAX_PAGE_BYTES, add_captions
from wavedil.report.page import write_report

__all__ = ["MAX_PAGE_BYTES", "add_captions", "write_report"]
