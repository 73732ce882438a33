//! The trading server.
