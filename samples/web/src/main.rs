//! A small web server.
fn main() {}
