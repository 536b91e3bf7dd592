//! Pure decisions of Adit: names, wire formats, reason codes, policy, routing and choices.
