//! Layer 0: calls into code of users.
//!
//! A user's `Serialize`, `Deserialize`, `Drop`, `Display` and the like are called on threads that many Works share. Each such
//! call is fenced where it is made, so that a panic is the failure of what it was called for; `ARCHITECTURE.md` lists the calls.
//!
//! # Guarantees
//! - A panic does not leave [`call`], [`text`], [`discard`] and the drop of a [`Fenced`] or a [`Panic`].
//! - A value in a [`Fenced`] may panic in its `Drop` while another panic unwinds: the process goes on.

use std::any::{Any, type_name};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A panic that was caught.
pub(crate) struct Panic(Option<Box<dyn Any + Send>>);

impl Panic {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Self {
        Self(Some(payload))
    }

    /// The value that was panicked with, if it is an `E`.
    pub(crate) fn downcast_ref<E: 'static>(&self) -> Option<&E> {
        self.0.as_ref()?.downcast_ref()
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.downcast_ref::<&str>().copied();
        let text = text.or_else(|| self.downcast_ref::<String>().map(String::as_str));
        f.write_str(text.unwrap_or("a panic without a message"))
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Panic({self})")
    }
}

impl Drop for Panic {
    /// The value that was panicked with may panic itself when it is dropped; what that panics with is leaked.
    fn drop(&mut self) {
        let payload = self.0.take();
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(another);
        }
    }
}

/// Calls code of a user.
///
/// # Errors
/// [`Panic`], when the code panicked.
pub(crate) fn call<R>(code: impl FnOnce() -> R) -> Result<R, Panic> {
    catch_unwind(AssertUnwindSafe(code)).map_err(Panic::new)
}

/// Drops a value of a user.
///
/// # Errors
/// [`Panic`], when its `Drop` panicked.
pub(crate) fn discard<T>(value: T) -> Result<(), Panic> {
    call(move || drop(value))
}

/// The text that code of a user makes, such as the `Display` of an error.
pub(crate) fn text(make: impl FnOnce() -> String) -> String {
    call(make).unwrap_or_else(|panic| format!("an error whose `Display` panicked: {panic}"))
}

/// Holder of a value of a user, whose `Drop` may panic: that is logged and goes no further.
pub(crate) struct Fenced<T>(Option<T>);

impl<T> Fenced<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("taken once")
    }

    /// Drops the value.
    ///
    /// # Errors
    /// [`Panic`], when its `Drop` panicked.
    pub(crate) fn discard(mut self) -> Result<(), Panic> {
        self.discard_now()
    }

    /// Drops the value, in the `Drop` of what has this holder, which is of no use afterwards.
    ///
    /// # Errors
    /// [`Panic`], when its `Drop` panicked.
    pub(crate) fn discard_now(&mut self) -> Result<(), Panic> {
        discard(self.0.take())
    }
}

impl<T: Clone> Clone for Fenced<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Fenced<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("there until it is taken")
    }
}

impl<T> DerefMut for Fenced<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("there until it is taken")
    }
}

impl<T> Drop for Fenced<T> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take()
            && let Err(panic) = discard(value)
        {
            log::error!("a value of type `{}` panicked while it was dropped: {panic}", type_name::<T>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb(&'static str);

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("{}", self.0);
        }
    }

    /// The panic of a `Drop` stays within the holder, is told by `discard`, and does not happen to a value that is taken out.
    #[test]
    fn panicking_drop_stays_within_its_holder() {
        drop(Fenced::new(Bomb("one")));
        assert_eq!(Fenced::new(Bomb("two")).discard().unwrap_err().to_string(), "two");
        std::mem::forget(Fenced::new(Bomb("three")).into_inner());
    }

    /// A panic that unwinds past a holder whose value panics as well is caught as if it were the only one.
    #[test]
    fn two_panics_at_once_do_not_abort() {
        let panic = call(|| {
            let _held = Fenced::new(Bomb("second"));
            panic!("first");
        });
        assert_eq!(panic.unwrap_err().to_string(), "first");
    }

    /// What was panicked with may panic when it is dropped.
    #[test]
    fn panicking_panic_payload_is_caught() {
        let panic = call(|| std::panic::panic_any(Bomb("third"))).unwrap_err();
        assert_eq!(panic.to_string(), "a panic without a message");
        assert!(panic.downcast_ref::<Bomb>().is_some());
    }

    /// The text of an error whose `Display` panics says so.
    #[test]
    fn panicking_display_is_a_text() {
        struct Mute;

        impl fmt::Display for Mute {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("no words");
            }
        }

        let text = text(|| Mute.to_string());
        assert!(text.contains("`Display` panicked: no words"), "{text}");
    }
}
