"""The driver of the end-to-end suite; `../run` is its entry, README.md its manual."""
