"""The operator's torch side: makes a campaign's files and retrains decided networks on public data."""
