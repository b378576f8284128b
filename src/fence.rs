//! Layer 0: calls into users' code.
//!
//! A user's `Serialize`, `Deserialize`, `Drop` or `Display` is called on threads that many Works share. Each such call
//! is fenced where it is made, so that a panic fails only the operation that made the call; `ARCHITECTURE.md` lists the
//! calls.
//!
//! # Guarantees
//! - A panic does not unwind out of [`call`], [`text`] or [`discard`], nor out of the drop of a [`Fenced`] or a
//!   [`Panic`].
//! - A value in a [`Fenced`] may panic in its `Drop` while another panic unwinds: the process does not abort.

use std::any::{Any, type_name};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A caught panic with its payload.
pub(crate) struct Panic(Option<Box<dyn Any + Send>>);

impl Panic {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Self {
        Self(Some(payload))
    }

    /// Returns the payload of the panic if it is an `E`.
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
    /// Drops the payload, whose own `Drop` may panic. The payload of that second panic is leaked.
    fn drop(&mut self) {
        let payload = self.0.take();
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(another);
        }
    }
}

/// Calls a user's code.
///
/// # Errors
/// [`Panic`] if the code panicked.
pub(crate) fn call<R>(code: impl FnOnce() -> R) -> Result<R, Panic> {
    catch_unwind(AssertUnwindSafe(code)).map_err(Panic::new)
}

/// Drops a user's value.
///
/// # Errors
/// [`Panic`] if its `Drop` panicked.
pub(crate) fn discard<T>(value: T) -> Result<(), Panic> {
    call(move || drop(value))
}

/// Returns the text that a user's code makes, such as the `Display` of an error, or a text about its panic.
pub(crate) fn text(make: impl FnOnce() -> String) -> String {
    call(make).unwrap_or_else(|panic| format!("an error whose `Display` panicked: {panic}"))
}

/// Holder of a user's value whose `Drop` may panic. Such a panic is logged and does not unwind further.
pub(crate) struct Fenced<T>(Option<T>);

impl<T> Fenced<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(crate) fn into_inner(mut self) -> T {
        self.take()
    }

    /// Takes the value out of the holder, which must not be used afterwards.
    pub(crate) fn take(&mut self) -> T {
        self.0.take().expect("taken once")
    }

    /// Drops the value.
    ///
    /// # Errors
    /// [`Panic`] if its `Drop` panicked.
    pub(crate) fn discard(mut self) -> Result<(), Panic> {
        self.discard_now()
    }

    /// Drops the value in place, for the `Drop` of a type that contains this holder. The holder must not be used
    /// afterwards.
    ///
    /// # Errors
    /// [`Panic`] if its `Drop` panicked.
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
        self.0.as_ref().expect("the value is present until it is taken")
    }
}

impl<T> DerefMut for Fenced<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("the value is present until it is taken")
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

    /// A panic in `Drop` stays within the holder, `discard` returns it, and `into_inner` avoids it.
    #[test]
    fn panicking_drop_stays_within_its_holder() {
        drop(Fenced::new(Bomb("one")));
        assert_eq!(Fenced::new(Bomb("two")).discard().unwrap_err().to_string(), "two");
        std::mem::forget(Fenced::new(Bomb("three")).into_inner());
    }

    /// A panic that unwinds past a holder whose value panics as well is caught like a single panic.
    #[test]
    fn two_panics_at_once_do_not_abort() {
        let panic = call(|| {
            let _held = Fenced::new(Bomb("second"));
            panic!("first");
        });
        assert_eq!(panic.unwrap_err().to_string(), "first");
    }

    /// A panic whose payload panics in its own `Drop` is caught.
    #[test]
    fn panicking_panic_payload_is_caught() {
        let panic = call(|| std::panic::panic_any(Bomb("third"))).unwrap_err();
        assert_eq!(panic.to_string(), "a panic without a message");
        assert!(panic.downcast_ref::<Bomb>().is_some());
    }

    /// An error whose `Display` panics is shown as a text that says so.
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
