//! The numbered stream of changes and its resumption.
