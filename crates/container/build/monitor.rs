//! Build step: monitor.

pub fn build() {}
