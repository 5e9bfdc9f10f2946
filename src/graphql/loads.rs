//! What the loaders of a process did: how many batches, and how many keys were in them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Batches and keys, by the name of the entity and the kind of the batch (`rows`, `pages`, `counts`).
#[derive(Debug, Default)]
pub struct Loads(Mutex<Loaded>);

/// Batches and keys of each entity and kind.
pub type Loaded = BTreeMap<(&'static str, &'static str), (u64, u64)>;

impl Loads {
    /// A batch of so many keys.
    pub fn add(&self, entity: &'static str, kind: &'static str, keys: usize) {
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (batches, all) = loaded.entry((entity, kind)).or_default();
        *batches += 1;
        *all += keys as u64;
    }

    /// All so far.
    #[must_use]
    pub fn so_far(&self) -> Loaded {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
