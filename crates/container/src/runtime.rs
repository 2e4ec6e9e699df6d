//! Shim and container init.
