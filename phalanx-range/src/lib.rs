//! Network namespaces, an emulated link and traffic with known truth.
