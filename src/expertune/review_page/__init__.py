"""Local web page on which experts rate, review and adjudicate records (`expertune review --page`)."""
