"""Pages to look at and listen to: ``report.html`` of one run or several, and a page of sound clips.

A page is one HTML file without references to other files or to the network.
"""

from wavedil.report.files import MAX_PAGE_BYTES, add_captions
from wavedil.report.page import write_clips_page, write_report

__all__ = ["MAX_PAGE_BYTES", "add_captions", "write_clips_page", "write_report"]
