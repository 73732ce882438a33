//! Numbers for a recorder of the `metrics` facade.
