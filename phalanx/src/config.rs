//! The configuration: what can be set, where it was set, what is in force.
