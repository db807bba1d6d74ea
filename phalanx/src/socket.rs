//! Who owns a socket: processes and their control groups.
