"""Fill a blank, generate, export."""
