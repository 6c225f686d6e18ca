"""Pictures and reports of a scored scan."""
