//! A server with a made-up engine: its endpoints, its limits, its end, clients of other people, and a browser.

mod answers;
mod client;
mod clients;
mod double;
mod fuzz;
mod limits;
mod page;
mod shutdown;
