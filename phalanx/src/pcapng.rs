//! Captures as pcapng files.
