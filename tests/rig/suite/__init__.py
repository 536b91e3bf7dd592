"""The suite on real clusters; `../run` is its entry, tests/README.md says what it wants."""
