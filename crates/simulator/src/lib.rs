//! Deterministic simulation of the order core: seeded schedules, crashes at every effect boundary, invariants throughout.
//! See `docs/simulator.md`.

pub mod store;
