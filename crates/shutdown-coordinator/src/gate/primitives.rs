//! What `count.rs` is built on; its loom test puts other things in their place.

pub(super) use std::sync::{
    Arc, Mutex, OnceLock, Weak,
    atomic::{
        AtomicBool,
        Ordering::{Acquire, SeqCst},
        fence,
    },
};

pub(super) use crate::sync::lock;
