//! Network interfaces and namespaces, and how they come and go.
