//! The rule by which a service chooses the replica for a message.

use std::any::Any;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::fence;
use crate::work::Message;
use crate::work::envelope::AnyEnvelope;

type Key = dyn Fn(&dyn Any) -> Option<u64> + Send + Sync;

/// The rule by which a service chooses the replica for a message. In each case a message waits in the service, where it
/// can go to any replica, until the one that is chosen has room for it.
///
/// ```
/// use flowright::Routing;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Predict { user: String }
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Forget { user: String }
/// let routing = Routing::by_key(|m: &Predict| m.user.clone()).and_key(|m: &Forget| m.user.clone());
/// ```
#[derive(Clone, Default)]
pub struct Routing {
    in_turn: bool,
    keys: Vec<Arc<Key>>,
}

impl Routing {
    /// The replica that has the fewest messages. The default.
    #[must_use]
    pub fn least_loaded() -> Self {
        Self::default()
    }

    /// The replicas take turns, except those that have no room.
    #[must_use]
    pub fn round_robin() -> Self {
        Self { in_turn: true, keys: Vec::new() }
    }

    /// Messages of type `M` with the same key go to the same replica, as long as the replicas stay; when one joins or
    /// leaves, only the keys change places that it takes over or gives away. Other messages go to the replica that has the
    /// fewest.
    #[must_use]
    pub fn by_key<M: Message, K: Hash>(key: impl Fn(&M) -> K + Send + Sync + 'static) -> Self {
        Self::default().and_key(key)
    }

    /// Gives messages of another type a key.
    #[must_use]
    pub fn and_key<M: Message, K: Hash>(mut self, key: impl Fn(&M) -> K + Send + Sync + 'static) -> Self {
        self.keys.push(Arc::new(move |message| {
            let message = message.downcast_ref::<M>()?;
            let mut hasher = DefaultHasher::new();
            key(message).hash(&mut hasher);
            Some(hasher.finish())
        }));
        self
    }

    pub(super) fn is_in_turn(&self) -> bool {
        self.in_turn
    }

    /// Returns the key of a message, if it has one. Calls code of the user.
    pub(super) fn key(&self, envelope: &dyn AnyEnvelope) -> Option<u64> {
        if self.keys.is_empty() {
            return None;
        }
        let message = envelope.message();
        let key = fence::call(|| self.keys.iter().find_map(|key| key(message)));
        key.unwrap_or_else(|panic| {
            log::error!("the key of a message `{}` panicked: {panic}", envelope.name());
            None
        })
    }
}

impl fmt::Debug for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routing").field("in_turn", &self.in_turn).field("keys", &self.keys.len()).finish()
    }
}
