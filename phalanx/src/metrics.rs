//! The Prometheus metrics, written from the views.
