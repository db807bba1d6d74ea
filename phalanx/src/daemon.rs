//! The loop that ties the kernel side to the engine and the engine to the views.
