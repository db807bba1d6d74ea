//! Capabilities: which are there, which are kept, which are dropped.
