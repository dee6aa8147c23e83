//! The mopo command.
fn main() {}
