"""Reports: one HTML file each, with everything in it. `page` lays out chapters, `write_report` is an execution's."""

from lhcnet.report.execution import write_report
from lhcnet.report.page import Chapter, Drawing, page

__all__ = ["Chapter", "Drawing", "page", "write_report"]
