//! For the tests of services that use this crate.
