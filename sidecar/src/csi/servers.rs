//! The driver's end of the processes that serve mounts.
