"""Held-out bits per byte and fill accuracy: functions over a model and arrays."""
