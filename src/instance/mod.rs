//! One of several processes that share a database.

pub mod inbox;
