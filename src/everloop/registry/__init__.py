"""WANT: what should be live, durably; every change of a model goes through here."""
