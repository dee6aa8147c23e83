//! One file per command.

pub(crate) mod bandit;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod config;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod label;
pub(crate) mod models;
pub(crate) mod pareto;
pub(crate) mod prepare;
pub(crate) mod report;
pub(crate) mod reward;
pub(crate) mod score;
pub(crate) mod serve;
mod shards;
pub(crate) mod study;
pub(crate) mod train;
pub(crate) mod win_rate;
