//! Exchanges of the Works of a run beside plain messages: batches, streams, and questions that are passed on in a circle.

use std::time::Duration;

use flowright::prelude::*;
use flowright::{Batch, HandleBatch, StreamError, Streamed, StreamedReply};
use futures::StreamExt;

use crate::plan::{RELAY, Rng};
use crate::records::{Event, Kind, Outcome, record};
use crate::works::{ASK, Answer, Contact, Member, Sender, Sending, answer_to, answered, unanswered};

/// Time after which a handler that awaits something beside an answer goes on without it. Longer than a cycle takes to be
/// found.
const BESIDE: Duration = Duration::from_millis(700);
/// A question that is handled in batches.
#[derive(Serialize, Deserialize)]
pub(crate) struct Batched {
    id: String,
    number: u64,
    /// True if the handler panics.
    panic: bool,
}

/// A question whose reply is a stream.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Listing {
    id: String,
    number: u64,
    /// Number of items that are sent.
    length: u64,
    /// Time in milliseconds between two items.
    pause: u64,
    ending: StreamEnding,
}

/// The way in which a stream ends behind its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StreamEnding {
    Complete,
    Failed,
    Unfinished,
}

/// The item at this place of a stream.
fn item_of(number: u64, place: u64) -> u64 {
    Rng::new(number ^ place.rotate_left(32)).next()
}

/// A question whose handler asks the first of these Works to ask the others.
#[derive(Serialize, Deserialize)]
pub(crate) struct Relay {
    id: String,
    number: u64,
    hops: Vec<Contact>,
    /// True if the handler awaits a timer beside the answer.
    beside: bool,
}

/// True if the Work at this path only relays.
pub(crate) fn is_relay(path: &str) -> bool {
    path.rsplit('.').next().is_some_and(|name| name.starts_with(RELAY))
}

pub(crate) async fn ask_batched(
    from: Sender,
    to: String,
    address: WorkAddr<Member>,
    number: u64,
    panic: bool,
) {
    let sending = Sending::begin(&from, &to, Kind::Ask);
    let answer = address.ask(Batched { id: sending.id.clone(), number, panic }).timeout(ASK).await;
    let outcome = answered(&sending.id, number, answer.as_ref());
    sending.done(outcome);
}

/// Asks with a question that is passed on along the hops.
pub(crate) async fn relay(
    from: Sender,
    to: String,
    address: WorkAddr<Member>,
    number: u64,
    kind: Kind,
    hops: Vec<Contact>,
    beside: bool,
) {
    let sending = Sending::begin(&from, &to, kind);
    let question = Relay { id: sending.id.clone(), number, hops, beside };
    let answer = address.ask(question).timeout(ASK).await;
    let outcome = answered(&sending.id, number, answer.as_ref());
    sending.done(outcome);
}

/// Asks for a stream and reads it, or a part of it.
pub(crate) async fn read_stream(from: Sender, to: String, address: WorkAddr<Member>, mut rng: Rng) {
    let sending = Sending::begin(&from, &to, Kind::Stream);
    let listing = Listing {
        id: sending.id.clone(),
        number: rng.next(),
        length: rng.below(200),
        pause: if rng.percent(50) { 0 } else { rng.between(1, 8) },
        ending: *rng.pick(&[
            StreamEnding::Complete,
            StreamEnding::Complete,
            StreamEnding::Complete,
            StreamEnding::Failed,
            StreamEnding::Unfinished,
        ]),
    };
    let window = rng.between(1, 32) as u32;
    let opened = address.stream(listing.clone()).window(window).timeout(ASK).await;
    let outcome = match opened {
        Ok(items) => read_items(items, &listing, &mut rng).await,
        Err(error) => unanswered(&error),
    };
    sending.done(outcome);
}

/// Reads items until the end, or leaves before. The outcome is wrong unless each item is the next one, and the end that
/// was requested comes behind all of them or another error before.
async fn read_items(mut items: StreamedReply<u64>, listing: &Listing, rng: &mut Rng) -> Outcome {
    let leaves_at = if rng.percent(15) { rng.below(200) } else { u64::MAX };
    let slow = rng.percent(20);
    let mut place = 0;
    let end = loop {
        if place == leaves_at {
            return Outcome::Answered;
        }
        match items.next().await {
            Some(Ok(item)) if place < listing.length && item == item_of(listing.number, place) => place += 1,
            Some(Ok(item)) => return Outcome::Wrong(format!("item {place} of {} is {item}", listing.length)),
            Some(Err(error)) => break Some(error),
            None => break None,
        }
        if slow {
            tokio::time::sleep(rng.millis(0, 10)).await;
        }
    };
    let is_whole = place == listing.length;
    let wrong = format!("{:?} stream of {} ended at {place} with {end:?}", listing.ending, listing.length);
    if end.is_some() && items.next().await.is_some() {
        return Outcome::Wrong(format!("{wrong}, and went on"));
    }
    match (listing.ending, end) {
        (StreamEnding::Complete, None) | (StreamEnding::Failed, Some(StreamError::Failed { .. }))
            if is_whole =>
        {
            Outcome::Answered
        }
        (StreamEnding::Unfinished, Some(StreamError::Unfinished { .. })) if is_whole => Outcome::Answered,
        // The task that sends is dropped with its incarnation.
        (
            _,
            Some(StreamError::Unfinished { .. } | StreamError::Ended { .. } | StreamError::NodeLost { .. }),
        ) => Outcome::Unclear(wrong),
        _ => Outcome::Wrong(wrong),
    }
}

impl HandleBatch<Batched> for Member {
    type Reply = Answer;

    fn batch(&self) -> Batch {
        Batch::of(self.life as usize % 6 + 1).within(Duration::from_millis(self.life % 20))
    }

    async fn handle_batch(&mut self, batch: Vec<Batched>, _: &mut WorkContext<Self>) -> Vec<Answer> {
        let life = self.life;
        batch.iter().for_each(|question| record(Event::Handled { life, id: question.id.clone() }));
        let most = life as usize % 6 + 1;
        if batch.is_empty() || batch.len() > most {
            let what = format!("a batch has {} messages, not 1 to {most}", batch.len());
            record(Event::Broken { life, what });
        }
        if batch.iter().any(|question| question.panic) {
            self.panic_as_asked();
        }
        let answer = |Batched { id, number, .. }| Answer { id, number: answer_to(number), parcel: None };
        batch.into_iter().map(answer).collect()
    }
}

impl Handle<Listing> for Member {
    type Reply = Streamed<u64>;

    async fn handle(&mut self, listing: Listing, cx: &mut WorkContext<Self>) -> Streamed<u64> {
        record(Event::Handled { life: self.life, id: listing.id });
        let (streamed, mut sender) = cx.stream();
        tokio::task::spawn_local(async move {
            for place in 0..listing.length {
                if listing.pause > 0 {
                    tokio::time::sleep(Duration::from_millis(listing.pause)).await;
                }
                if sender.send(item_of(listing.number, place)).await.is_err() {
                    return;
                }
            }
            match listing.ending {
                StreamEnding::Complete => sender.finish(),
                StreamEnding::Failed => sender.fail("it was asked to"),
                StreamEnding::Unfinished => drop(sender),
            }
        });
        streamed
    }
}

impl Handle<Relay> for Member {
    type Reply = Answer;

    async fn handle(&mut self, question: Relay, _: &mut WorkContext<Self>) -> Answer {
        record(Event::Handled { life: self.life, id: question.id.clone() });
        let Relay { id, number, mut hops, beside } = question;
        if !hops.is_empty() {
            let (to, address) = hops.remove(0);
            let (from, kind) = (self.sender(), if beside { Kind::Beside } else { Kind::Nested });
            let asks = relay(from, to, address, number, kind, hops, beside);
            if beside {
                tokio::select! { () = asks => {} () = tokio::time::sleep(BESIDE) => {} }
            } else {
                asks.await;
            }
        }
        Answer { id, number: answer_to(number), parcel: None }
    }
}
