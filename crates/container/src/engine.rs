//! The set of containers of this machine.
