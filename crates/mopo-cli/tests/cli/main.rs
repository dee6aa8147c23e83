//! The program as a process: started, killed, and given wrong input.

mod bandit;
mod chat;
mod common;
mod dpo;
mod endpoint;
mod export;
mod guard;
mod hub;
mod kill_and_resume;
mod label;
mod output;
mod paper;
mod prepare;
mod ranks;
mod report;
mod reward;
mod score;
mod serve;
mod shards;
mod study;
mod win_rate;
mod wrong_input;
