//! The pure trading core.
