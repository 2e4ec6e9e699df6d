//! Build step: seccomp.

pub fn build() {}
