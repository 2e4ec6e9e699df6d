//! Kernel calls: bpf.
