//! A simulated spot exchange for paper trading and for tests that must not trust the system they test.
//!
//! The exchange is synchronous and deterministic: time is an argument, and the same calls give the same answers.
//!
//! - [`exchange::Exchange`] decides: it takes requests and market data, and says what follows as [`record::Record`]s.
//! - [`state::State`] is what the records add up to; it changes through them alone, so a replay rebuilds it exactly.
//! - [`ledger`] makes records durable before anything is answered, and reads them back for the checker.
//! - [`feed`] supplies prices: seeded ones, or recorded ones.
//! - [`faults`] are the ways in which the venue can be made to misbehave.
//! - [`host`] runs an exchange with its ledger on a thread of its own.
//! - [`binance`] serves a host over the network, in Binance's dialect.
//! - [`witness`] looks whether a customer had written down what it sends.
//!
//! Deliberately absent: matching our own accounts' orders with each other, order books deeper than the best quote,
//! margin, and any notion of queue position ahead of us.

pub mod binance;
pub mod book;
pub mod exchange;
pub mod faults;
pub mod feed;
mod filters;
pub mod host;
pub mod ledger;
mod matching;
pub mod record;
pub mod state;
pub mod updates;
pub mod witness;
