//! Kernel calls: mount.
