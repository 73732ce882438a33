//! Deterministic simulation of the order core: a seeded scheduler drives the real engine against a simulated store, venue and
//! clock, crashes it at every effect boundary, and checks the promises throughout.
