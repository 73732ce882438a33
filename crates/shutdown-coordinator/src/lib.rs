//! Phased graceful shutdown for tokio services.
