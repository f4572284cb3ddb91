//! The Node service: what is mounted on this machine.
