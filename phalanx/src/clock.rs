//! Monotonic time and its mapping to the wall clock.
