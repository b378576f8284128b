//! Iterative dropping of values that refer to other values, to bound the depth of the stack.
//!
//! # Guarantees
//! - Dropping a chain of nested values needs a stack of constant depth, however long the chain is.
//! - A panic in a user's `Drop` is logged, and the remaining values are dropped nevertheless.

use std::any::Any;
use std::cell::RefCell;

use crate::fence;

type Dropped = Box<dyn Any>;

thread_local! {
    /// Values queued by the [`drop_in_turn`] that is running on this thread.
    static WAITING: RefCell<Option<Vec<Dropped>>> = const { RefCell::new(None) };
}

/// Drops `what` now, or, if called from within such a drop, after that drop has returned.
pub(super) fn drop_in_turn(what: impl Any) {
    let mut what: Option<Dropped> = Some(Box::new(what));
    // The queue is gone while the thread's locals are destroyed; then the value is dropped recursively.
    let is_first = WAITING.try_with(|waiting| {
        let mut waiting = waiting.borrow_mut();
        match &mut *waiting {
            Some(waiting) => {
                waiting.extend(what.take());
                false
            }
            None => {
                *waiting = Some(Vec::new());
                true
            }
        }
    });
    if is_first != Ok(true) {
        return;
    }
    while let Some(next) = what.take() {
        if let Err(panic) = fence::discard(next) {
            log::error!("a value of a payload panicked while it was dropped: {panic}");
        }
        what = WAITING.with_borrow_mut(|waiting| waiting.as_mut().and_then(Vec::pop));
    }
    WAITING.set(None);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::{Deserialize, Serialize};

    use super::super::handle::Payload;
    use super::super::store::Store;
    use crate::id::ActorPath;

    #[derive(Serialize, Deserialize)]
    struct Nested {
        next: Option<Payload<Nested>>,
    }

    fn payload(next: Option<Payload<Nested>>) -> Payload<Nested> {
        Payload::new(Nested { next }, &Store::for_tests(), &ActorPath::from("maker")).unwrap()
    }

    /// Dropping the first of many nested payloads drops them all within the small stack of one thread.
    #[test]
    fn nested_payloads_are_dropped_without_a_deep_stack() {
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let last = small.spawn(|| {
            let innermost = payload(None);
            let last = Arc::downgrade(&innermost.resolve_for_tests());
            let mut chain = innermost;
            for _ in 0..20_000 {
                chain = payload(Some(chain));
                // Dereferencing makes the handle keep the value that it has read.
                assert!(chain.next.as_ref().is_some_and(|next| next.encoded_len() > 0));
            }
            let read = {
                let next = chain.next.as_ref().unwrap();
                next.next.is_some()
            };
            assert!(read);
            drop(chain);
            last
        });
        assert!(last.unwrap().join().unwrap().upgrade().is_none());
    }

    /// A panic in one value's `Drop` does not leak the others.
    #[test]
    fn a_panic_while_dropping_keeps_no_other_value() {
        struct Bad(Arc<()>);

        impl Drop for Bad {
            fn drop(&mut self) {
                super::drop_in_turn(self.0.clone());
                panic!("it panics");
            }
        }

        let shared = Arc::new(());
        super::drop_in_turn(Bad(shared.clone()));
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}
