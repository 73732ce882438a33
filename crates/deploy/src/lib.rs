//! `hotgo-deploy`: installs, upgrades, rolls back and watches a trading server that runs in two slots under systemd.
//!
//! It is independent of the version it deploys: it speaks the server's private socket (`instance`), runs `main check` and
//! `main migrate` (`release`), and drives systemd (`systemd`). The protocol itself is in `upgrade`.

pub mod artifact;
pub mod checklist;
pub mod cli;
pub mod commands;
pub mod config;
pub mod contract;
pub mod error;
pub mod install;
pub mod instance;
pub mod journal;
pub mod layout;
pub mod lock;
pub mod monitor;
pub mod notice;
pub mod output;
pub mod process;
pub mod release;
pub mod rolling;
pub mod site;
pub mod systemd;
pub mod time;
pub mod upgrade;
pub mod windows;
