//! How messages from other processes get in.
//!
//! A message that comes from afar is bytes and the name of a type. A Work says by [`Work::messages`] which types it
//! takes from there; between Works of one process nothing of this is needed.

use std::any::type_name;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::Work;
use super::json::{Question, question};
use super::mailbox::{Closed, Mailbox, Refused};
use super::message::{AskedFromAfar, Envelope, Handle, Letter, Message, Outcome, Reply, Told};
use crate::trace::Cause;
use crate::wire::{self, CodecError};

/// The messages that a Work takes from other processes and over HTTP, filled by [`Work::messages`].
pub struct Messages<W: Work> {
    wanted: Option<(String, Arc<Mailbox<W>>)>,
    found: Option<Arc<dyn Intake>>,
    names: Vec<&'static str>,
    asked: Option<String>,
    question: Option<Question<W>>,
}

impl<W: Work> Messages<W> {
    /// Takes messages of this type.
    pub fn accept<M: Message>(&mut self) -> &mut Self
    where
        W: Handle<M>,
    {
        let name = type_name::<M>();
        self.names.push(name);
        if let Some((_, mailbox)) = self.wanted.take_if(|(wanted, _)| wanted == name) {
            self.found = Some(Arc::new(IntakeOf { mailbox, envelope: envelope::<W, M> }));
        }
        if self.asked.take_if(|asked| asked == name).is_some() {
            self.question = Some(question::<W, M>);
        }
        self
    }

    fn empty() -> Self {
        Self { wanted: None, found: None, names: Vec::new(), asked: None, question: None }
    }

    /// How messages of this name are asked with JSON.
    pub(super) fn question(name: &str) -> Option<Question<W>> {
        let mut messages = Self { asked: Some(name.to_owned()), ..Self::empty() };
        W::messages(&mut messages);
        messages.question
    }

    pub(super) fn find(mailbox: Arc<Mailbox<W>>, name: &str) -> Option<Arc<dyn Intake>> {
        let mut messages = Self { wanted: Some((name.to_owned(), mailbox)), ..Self::empty() };
        W::messages(&mut messages);
        messages.found
    }

    /// The names of all of them.
    pub(crate) fn names() -> Vec<&'static str> {
        let mut messages = Self::empty();
        W::messages(&mut messages);
        messages.names
    }
}

/// The way into one mailbox for messages of one type.
pub(crate) trait Intake: Send + Sync {
    fn receive(&self, bytes: &[u8], cause: Cause, reply: Option<Box<dyn Reply>>) -> Received;
}

/// What became of a message that arrived.
pub(crate) enum Received {
    Taken,
    /// The mailbox is full: the message gets in when this has ended, before any that is received after that.
    Waits(BoxFuture<'static, ()>),
    /// Whoever asked has been told. What was not a question is lost.
    Refused(Closed),
    Unreadable(CodecError),
}

type Open<W> = fn(&[u8], Cause, Option<Box<dyn Reply>>) -> Result<Envelope<W>, CodecError>;

struct IntakeOf<W: Work> {
    mailbox: Arc<Mailbox<W>>,
    envelope: Open<W>,
}

fn envelope<W: Handle<M>, M: Message>(
    bytes: &[u8],
    cause: Cause,
    reply: Option<Box<dyn Reply>>,
) -> Result<Envelope<W>, CodecError> {
    match (wire::decode::<M>(bytes), reply) {
        (Ok(message), None) => Ok(Box::new(Told { message, cause })),
        (Ok(message), Some(reply)) => Ok(Box::new(AskedFromAfar { message, cause, reply })),
        (Err(error), reply) => {
            if let Some(reply) = reply {
                reply.send(Outcome::Unreadable(error.to_string()));
            }
            Err(error)
        }
    }
}

impl<W: Work> Intake for IntakeOf<W> {
    fn receive(&self, bytes: &[u8], cause: Cause, reply: Option<Box<dyn Reply>>) -> Received {
        let envelope = match (self.envelope)(bytes, cause, reply) {
            Ok(envelope) => envelope,
            Err(error) => return Received::Unreadable(error),
        };
        match self.mailbox.receive(envelope) {
            Ok(()) => Received::Taken,
            Err(Refused::Full(envelope)) => {
                let mailbox = self.mailbox.clone();
                Received::Waits(Box::pin(async move {
                    if let Err(refused) = mailbox.send(envelope).await {
                        settle(refused);
                    }
                }))
            }
            Err(Refused::Closed(letter, why)) => {
                letter.settle(Outcome::Refused(why));
                Received::Refused(why)
            }
            Err(Refused::Unsendable(letter, why)) => {
                letter.settle(Outcome::Unreadable(why));
                Received::Refused(Closed::Unknown)
            }
        }
    }
}

/// Tells the sender of a message that could not be delivered.
fn settle(refused: Refused<Box<dyn Letter>>) {
    let (letter, outcome) = match refused {
        Refused::Full(letter) => (letter, Outcome::Refused(Closed::Unknown)),
        Refused::Closed(letter, why) => (letter, Outcome::Refused(why)),
        Refused::Unsendable(letter, why) => (letter, Outcome::Unreadable(why)),
    };
    if letter.settle(outcome) {
        log::warn!("a message from another process is lost: its Work was stopped while the message waited");
    }
}
