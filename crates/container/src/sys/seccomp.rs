//! Kernel calls: seccomp.
