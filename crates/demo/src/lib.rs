//! Two clusters on loopback with real agents, told step by step.
