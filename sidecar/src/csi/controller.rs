//! The Controller service: volumes in the store, made and removed.
