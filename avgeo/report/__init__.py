"""One clip's answer as one HTML file: `html_report` from the JSON form, `write_report` from what `locate` returned."""

from avgeo.report.page import MAX_SOUND_S, ReportError, escape, html_report, simulated, write_report

__all__ = ["MAX_SOUND_S", "ReportError", "escape", "html_report", "simulated", "write_report"]
