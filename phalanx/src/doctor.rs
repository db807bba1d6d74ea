//! What this host can do for Phalanx, what is missing and what to do about it.
