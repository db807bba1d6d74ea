//! What the API and the metrics read: views folded from the engine's changes.
