use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake};

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::super::WorkContext;
use super::super::dead_letters::{DeadLetters, SenderId};
use super::super::envelope::Deliver;
use super::*;
use crate::error::Result;
use crate::id::AppId;
use crate::runtime::{self, Runtime};
use crate::trace::Cause;

#[derive(Serialize, Deserialize)]
struct Sink;

impl Work for Sink {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

/// A numbered message of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Note {
    sender: usize,
    number: u32,
    is_first: bool,
}

impl Deliver<Sink> for Note {
    fn deliver<'a>(self: Box<Self>, _: &'a mut Sink, _: &'a mut WorkContext<Sink>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

impl AnyEnvelope for Note {
    fn message_type(&self) -> std::any::TypeId {
        std::any::TypeId::of::<Self>()
    }

    fn name(&self) -> &'static str {
        "note"
    }

    fn message(&self) -> &dyn std::any::Any {
        self
    }

    fn write(&self, _: &mut bytes::BytesMut) -> Result<(), crate::wire::CodecError> {
        Ok(())
    }

    fn cause(&self) -> Cause {
        Cause::default()
    }

    fn sender(&self) -> SenderId {
        SenderId::OUTSIDE
    }

    fn is_first(&self) -> bool {
        self.is_first
    }

    fn is_question(&self) -> bool {
        false
    }

    fn settle(self: Box<Self>, _: Outcome<'_>) -> bool {
        true
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }

    fn into_typed(self: Box<Self>) -> Box<dyn std::any::Any> {
        let envelope: BoxedEnvelope<Sink> = self;
        Box::new(envelope)
    }
}

fn note(number: u32) -> BoxedEnvelope<Sink> {
    Box::new(Note { sender: 0, number, is_first: false })
}

fn first(number: u32) -> BoxedEnvelope<Sink> {
    Box::new(Note { sender: 0, number, is_first: true })
}

fn open(capacity: usize) -> (Arc<Mailbox<Sink>>, Receiver<Sink>) {
    let mailbox = Arc::new(Mailbox::new(capacity));
    let incarnation = mailbox.open();
    (mailbox.clone(), Receiver::new(mailbox, incarnation))
}

fn receive(receiver: &mut Receiver<Sink>) -> Option<Note> {
    match receiver.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Mail::Message(envelope)) => Some(*envelope.into_any().downcast().unwrap()),
        Poll::Ready(Mail::Command(_)) => panic!("no command was sent"),
        Poll::Pending => None,
    }
}

fn receive_all(receiver: &mut Receiver<Sink>) -> Vec<u32> {
    std::iter::from_fn(|| receive(receiver)).map(|note| note.number).collect()
}

#[test]
fn it_takes_as_many_as_it_has_room_for_and_gives_the_next_one_back() {
    let (mailbox, mut receiver) = open(3);
    (1..=3).for_each(|number| assert!(mailbox.try_send(note(number)).is_ok()));
    let Err(Refused::Full(envelope)) = mailbox.try_send(note(4)) else { panic!("there was no room") };
    assert_eq!(envelope.into_any().downcast::<Note>().unwrap().number, 4);
    assert_eq!(mailbox.depth(), 3);
    assert_eq!(receive_all(&mut receiver), [1, 2, 3]);
}

#[test]
fn a_mailbox_without_room_still_has_room_for_one() {
    let (mailbox, _receiver) = open(0);
    assert!(mailbox.try_send(note(1)).is_ok());
    assert!(mailbox.try_send(note(2)).is_err());
}

#[test]
fn what_was_taken_and_not_begun_is_found_by_the_next_incarnation() {
    let (mailbox, mut receiver) = open(64);
    (1..=20).for_each(|number| assert!(mailbox.try_send(note(number)).is_ok()));
    assert_eq!(receive(&mut receiver).unwrap().number, 1);
    drop(receiver);
    let incarnation = mailbox.open();
    let mut receiver = Receiver::new(mailbox, incarnation);
    assert_eq!(receive_all(&mut receiver), (2..=20).collect::<Vec<_>>());
}

#[test]
fn an_incarnation_that_was_given_up_gets_nothing_but_an_order_to_stop() {
    let (mailbox, mut given_up) = open(4);
    let incarnation = mailbox.open();
    let mut receiver = Receiver::new(mailbox.clone(), incarnation);
    assert!(mailbox.try_send(note(1)).is_ok());
    let found = given_up.poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(found, Poll::Ready(Mail::Command(Command::Stop))));
    drop(given_up);
    assert_eq!(receive_all(&mut receiver), [1]);
}

/// A message that is sent first overtakes those that an incarnation has taken but not begun, and no other one like it.
#[test]
fn message_sent_first_overtakes_a_batch() {
    let (mailbox, mut receiver) = open(64);
    (1..=20).for_each(|number| assert!(mailbox.try_send(note(number)).is_ok()));
    assert_eq!(receive(&mut receiver).unwrap().number, 1);
    (21..=22).for_each(|number| assert!(mailbox.try_send(first(number)).is_ok()));
    assert_eq!(receive(&mut receiver).unwrap().number, 21);
    assert!(mailbox.try_send(first(23)).is_ok());
    assert!(mailbox.try_send(note(24)).is_ok());
    let expected: Vec<_> = [22, 23].into_iter().chain(2..=20).chain([24]).collect();
    assert_eq!(receive_all(&mut receiver), expected);
}

/// Of those that wait for room, the one that sends first gets it first, and needs it as any other.
#[test]
fn sender_that_sends_first_waits_before_others() {
    let (mailbox, mut receiver) = open(1);
    assert!(mailbox.try_send(note(1)).is_ok());
    let mut waiting = Box::pin(mailbox.send(note(2)));
    let mut waiting_first = Box::pin(mailbox.send(first(3)));
    assert!((&mut waiting).now_or_never().is_none());
    assert!((&mut waiting_first).now_or_never().is_none());
    assert!(matches!(mailbox.try_send(first(4)), Err(Refused::Full(_))));
    assert_eq!(receive_all(&mut receiver), [1]);
    assert!((&mut waiting).now_or_never().is_none());
    assert!(matches!(waiting_first.now_or_never(), Some(Ok(Delivery::Here))));
    assert_eq!(receive_all(&mut receiver), [3]);
    assert!(matches!(waiting.now_or_never(), Some(Ok(Delivery::Here))));
    assert_eq!(receive_all(&mut receiver), [2]);
}

#[test]
fn commands_go_before_messages() {
    let (mailbox, mut receiver) = open(4);
    assert!(mailbox.try_send(note(1)).is_ok());
    mailbox.command(Command::Stop);
    let found = receiver.poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(found, Poll::Ready(Mail::Command(Command::Stop))));
    assert_eq!(receive_all(&mut receiver), [1]);
}

#[test]
fn closing_refuses_those_that_wait_for_room_and_counts_what_is_lost() {
    let letters = Arc::<DeadLetters>::default();
    let _entered = runtime::enter(Arc::new(Runtime::new(AppId::next()).with(letters.clone())));
    let (mailbox, _receiver) = open(1);
    mailbox.set_path(&"work".into());
    assert!(mailbox.try_send(note(1)).is_ok());
    let mut waiting = Box::pin(mailbox.send(note(2)));
    assert!((&mut waiting).now_or_never().is_none());
    mailbox.close(CloseReason::Stopped);
    assert_eq!(letters.counts(), [(Some("work".into()), DeadLetterReason::Stopped, 1)]);
    assert!(matches!(waiting.now_or_never(), Some(Err(Refused::Closed(_, CloseReason::Stopped)))));
    assert!(matches!(mailbox.try_send(note(3)), Err(Refused::Closed(_, CloseReason::Stopped))));
}

#[test]
fn a_sender_that_slept_while_the_mailbox_was_closed_and_opened_is_not_left_waiting() {
    let (mailbox, receiver) = open(1);
    assert!(mailbox.try_send(note(1)).is_ok());
    let mut waiting = Box::pin(mailbox.send(note(2)));
    assert!((&mut waiting).now_or_never().is_none());
    mailbox.close(CloseReason::Failed);
    drop(receiver);
    let mut receiver = Receiver::new(mailbox.clone(), mailbox.open());
    assert!(matches!(waiting.now_or_never(), Some(Ok(Delivery::Here))));
    assert_eq!(receive_all(&mut receiver), [2]);
}

/// The number of senders. The last two send first.
const SENDERS: usize = 6;

fn sends_first(sender: usize) -> bool {
    sender >= 4
}

#[derive(Debug, Clone)]
enum Step {
    TrySend(usize),
    /// Begins to send, or polls a `send` that waits for room.
    Send(usize),
    GiveUp(usize),
    Receive,
    Restart,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..SENDERS).prop_map(Step::TrySend),
        8 => (0..SENDERS).prop_map(Step::Send),
        2 => (0..SENDERS).prop_map(Step::GiveUp),
        8 => Just(Step::Receive),
        1 => Just(Step::Restart),
        1 => Just(Step::Close),
    ]
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Delivery, Refused<Box<dyn AnyEnvelope>>>> + 'a>>;

/// A sender that sends one message after another.
#[derive(Default)]
struct Sender<'a> {
    next: u32,
    sending: Option<Sending<'a>>,
    woken: Arc<Woken>,
    /// Messages sent but not received yet, in order.
    sent: VecDeque<u32>,
}

impl Sender<'_> {
    fn look(&mut self) {
        let Some(sending) = &mut self.sending else { return };
        let waker = Waker::from(self.woken.clone());
        if let Poll::Ready(result) = sending.as_mut().poll(&mut Context::from_waker(&waker)) {
            assert!(result.is_ok(), "the mailbox is open whenever a sender polls");
            self.sending = None;
            self.sent.push_back(self.next - 1);
        }
    }
}

proptest! {
    /// Senders send, wait and give up, some of them first, and the receiver receives, restarts and closes, in any order: the
    /// mailbox stays bounded, keeps the order of each sender, forgets no waiting sender, and no message is received while
    /// one waits that was sent first.
    #[test]
    fn it_is_bounded_keeps_each_senders_order_and_forgets_nobody_who_waits(
        capacity in 1_usize..20,
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let (mailbox, mut receiver) = open(capacity);
        let mut senders: [Sender<'_>; SENDERS] = Default::default();
        let received = |senders: &mut [Sender<'_>; SENDERS], note: Note| {
            let first_waits = senders.iter().enumerate().any(|(sender, s)| sends_first(sender) && !s.sent.is_empty());
            assert!(note.is_first || !first_waits, "{note:?} is received before one that is sent first");
            // A message whose sender gave up is not in `sent`, so this also checks that it is never received.
            assert_eq!(senders[note.sender].sent.pop_front(), Some(note.number));
        };
        for step in steps {
            match step {
                Step::TrySend(sender) if senders[sender].sending.is_none() => {
                    let number = senders[sender].next;
                    if mailbox.try_send(Box::new(Note { sender, number, is_first: sends_first(sender) })).is_ok() {
                        senders[sender].next += 1;
                        senders[sender].sent.push_back(number);
                    }
                }
                Step::TrySend(_) => {}
                Step::Send(sender) => {
                    let me = &mut senders[sender];
                    if me.sending.is_none() {
                        let number = me.next;
                        me.next += 1;
                        let note = Note { sender, number, is_first: sends_first(sender) };
                        me.sending = Some(Box::pin(mailbox.send(Box::new(note))));
                    }
                    me.look();
                }
                Step::GiveUp(sender) => senders[sender].sending = None,
                Step::Receive => {
                    if let Some(note) = receive(&mut receiver) {
                        received(&mut senders, note);
                    }
                }
                Step::Restart => {
                    drop(receiver);
                    receiver = Receiver::new(mailbox.clone(), mailbox.open());
                }
                Step::Close => {
                    mailbox.close(CloseReason::Stopped);
                    drop(receiver);
                    receiver = Receiver::new(mailbox.clone(), mailbox.open());
                    senders.iter_mut().for_each(|sender| sender.sent.clear());
                }
            }
            prop_assert!(mailbox.depth() <= capacity);
        }
        // From here on only senders that were woken are polled.
        loop {
            let mut progress = false;
            while let Some(note) = receive(&mut receiver) {
                received(&mut senders, note);
                progress = true;
            }
            for sender in &mut senders {
                if sender.woken.0.swap(false, Ordering::SeqCst) {
                    sender.look();
                    progress = true;
                }
            }
            if !progress {
                break;
            }
        }
        prop_assert!(senders.iter().all(|sender| sender.sending.is_none() && sender.sent.is_empty()));
        prop_assert_eq!(mailbox.depth(), 0);
    }
}
