//! The folder-backed set of containers of this machine.
