//! `jdos`: arguments to roles to wiring, nothing else.
fn main() {}
