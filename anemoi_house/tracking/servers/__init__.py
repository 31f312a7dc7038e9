"""The servers that a run can be sent to: what each is like."""
